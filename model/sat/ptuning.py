"""P-tuning v2: keys and values in each layer that every token sees, and the only ones that are trained.

https://arxiv.org/abs/2110.07602
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from . import compat as sat_compat  # noqa: F401  (before sat)

# isort: split
from sat.model.base_model import non_conflict
from sat.model.finetune.prompt_tuning import PTuningV2Mixin
from sat.transformer_defaults import attention_fn_default

PTUNING = "ptuning"  # checkpoint key


class PrefixMixin(PTuningV2Mixin):
    """P-tuning v2 as SAT has it, in the dtype of what it meets, so that training may keep it in float32.

    Attributes:
        is_on: False has it add nothing.
    """

    is_on = True

    @non_conflict  # type: ignore[untyped-decorator]
    def attention_fn(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor,
        dropout_fn: Any,
        old_impl: Any = attention_fn_default,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Let queries [B, H, T, head_dim] see the prefix of their layer as well."""
        if self.is_on:
            keys, values = self.prefix[kwargs["layer_id"]].to(k.dtype)[:, None].expand(-1, len(k), -1, -1, -1)
            if mask.numel() > 1:
                mask = nn.functional.pad(mask, (0, self.prefix_len), value=1)
            k, v = torch.cat((k, keys), dim=2), torch.cat((v, values), dim=2)
        if old_impl is not attention_fn_default:
            context: torch.Tensor = old_impl(q, k, v, mask, dropout_fn, **kwargs)
            return context
        # SAT's own looks twice in each layer what the mask holds, and waits for the device to answer.
        visible = None if mask.numel() == 1 else mask > 0
        rate = dropout_fn.p if dropout_fn is not None and dropout_fn.training else 0.0
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=rate)


def find_prefix(mixins: nn.ModuleDict) -> PTuningV2Mixin | None:
    """Return a model's P-tuning if it is SAT's or ours; another's may do something else."""
    mixin = dict(mixins).get(PTUNING)
    return mixin if type(mixin) in (PTuningV2Mixin, PrefixMixin) else None


def prefix_of(mixins: nn.ModuleDict) -> Sequence[torch.Tensor]:
    """Return the keys and values of a model's P-tuning, nothing where it has none or where that is off."""
    mixin = find_prefix(mixins)
    return () if mixin is None or (type(mixin) is PrefixMixin and not mixin.is_on) else mixin.prefix

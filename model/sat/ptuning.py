"""P-tuning v2: trainable keys and values in each layer, which every token attends to; nothing else is trained.

Paper: https://arxiv.org/abs/2110.07602
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..aliases import FormerAttribute
from . import compat as sat_compat  # noqa: F401  (before sat)

# isort: split
from sat.model.base_model import non_conflict
from sat.model.finetune.prompt_tuning import PTuningV2Mixin
from sat.transformer_defaults import attention_fn_default

PTUNING = "ptuning"  # checkpoint key


class PrefixMixin(PTuningV2Mixin):
    """SAT's P-tuning v2, with the prefix cast to the keys' dtype, so that it can be trained in float32.

    Attributes:
        enabled: False leaves out the prefix.
    """

    is_on = FormerAttribute("enabled")
    enabled = True

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
        """Compute attention of queries [B, H, T, head_dim] over the layer's prefix as well."""
        if self.enabled:
            keys, values = self.prefix[kwargs["layer_id"]].to(k.dtype)[:, None].expand(-1, len(k), -1, -1, -1)
            if mask.numel() > 1:
                mask = nn.functional.pad(mask, (0, self.prefix_len), value=1)
            k, v = torch.cat((k, keys), dim=2), torch.cat((v, values), dim=2)
        if old_impl is not attention_fn_default:
            context: torch.Tensor = old_impl(q, k, v, mask, dropout_fn, **kwargs)
            return context
        # SAT's own attention inspects the mask twice per layer, and each time waits for the device.
        visible = None if mask.numel() == 1 else mask > 0
        rate = dropout_fn.p if dropout_fn is not None and dropout_fn.training else 0.0
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=rate)


def find_prefix(mixins: nn.ModuleDict) -> PTuningV2Mixin | None:
    """Return the P-tuning mixin of a model if it is SAT's or ours, whose behavior is known; None otherwise."""
    mixin = dict(mixins).get(PTUNING)
    return mixin if type(mixin) in (PTuningV2Mixin, PrefixMixin) else None


def prefixes_of(mixins: nn.ModuleDict) -> Sequence[torch.Tensor]:
    """Return the P-tuning prefixes of a model, one per layer; empty if it has none or they are disabled."""
    mixin = find_prefix(mixins)
    return () if mixin is None or (type(mixin) is PrefixMixin and not mixin.enabled) else mixin.prefix

"""A batch -> the final states of the language model: the chat's own forward pass, with gradients.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The layers are walked here, because SAT's own pass compares whole masks in every layer, and multiplies every place with
the vocabulary. Where a mixin has changed more than what attention sees, SAT's pass has to be called.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from model.engine.cache import angle_table
from model.engine.network import to_device
from model.sat.frozen import is_mixing
from model.sat.lora import copy_factors, has_dropout
from model.visualglm import OWN_HOOKS

from .batches import Batch
from .layers import linear_layers, run_layer, turns_of

MASK_STEP = 8  # how far apart, in numbers, PyTorch's kernels want the rows of a mask: a multiple
ATTENTION_HOOK = "attention_fn"  # what P-tuning answers


def final_states(network: Any, batch: Batch, images: torch.Tensor | None, twice: bool = False) -> torch.Tensor:
    """Return the final states [B, T, D] of the language model.

    Args:
        network: a VisualGLMModel.
        images: embeddings [P, L, D] of the batch's pictures.
        twice: compute the layers again on the way back instead of keeping what they computed.
    """
    x = embed(network, batch, images)
    positions, mask = (to_device(tensor, x.device) for tensor in (batch.position_ids, batch.attention_mask))
    angles = network.rotary.angles(positions.transpose(1, 2))  # [B, T, 2, head_dim / 2]
    table = angle_table(angles.flatten(0, 2)).to(dtype_of_products(x))
    turns = turns_of(table.view(2, *x.shape[:2], -1))
    hook = network.hooks.get(ATTENTION_HOOK)
    # SAT's own attention knows masks as numbers that are factors.
    visible = additive(mask, table.dtype) if hook is None else mask.to(table.dtype)
    transformer = network.transformer
    again = twice and torch.is_grad_enabled()
    # Where nothing is drawn, no random state has to be put back.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": again and has_dropout(transformer)}
    factors = {} if is_mixing(x.device.type) else copy_factors(linear_layers(transformer), x.dtype)
    for number, layer in enumerate(transformer.layers):
        run = partial(run_layer, layer, partial(attend, hook, number), network.residual_scale, factors, again)
        x = checkpoint(run, x, turns, visible, **options) if again else run(x, turns, visible)
    return transformer.final_layernorm(x)  # type: ignore[no-any-return]


def logits_by_sat(network: Any, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [B, T, V] of SAT's own forward pass, which calls every hook."""
    given: dict[str, Any] = {"pre_image": batch.image_starts}
    if images is not None:
        given["image_embeddings"] = of_rows(batch, images)
    mask = batch.attention_mask.to(network.device).float()  # SAT takes a bool for what is hidden
    positions = batch.position_ids.to(network.device)
    return network(batch.input_ids.to(network.device), position_ids=positions, attention_mask=mask, **given)[0]  # type: ignore[no-any-return]


def has_changed_layers(network: Any) -> bool:
    """Whether a mixin that is not ours answers a hook, other than the attention's innermost."""
    return any(OWN_HOOKS.get(name) != origin for name, origin in network.hook_origins.items() if name != ATTENTION_HOOK)


def of_rows(batch: Batch, images: torch.Tensor) -> torch.Tensor:
    """Return the embeddings [B, L, D] that belong to each row, any where it has no picture, of those [P, L, D]."""
    return images[to_device(torch.tensor(batch.pictures).clamp(min=0), images.device)]


def embed(network: Any, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the embedded batch [B, T, D], its pictures' embeddings [P, L, D] in their places."""
    ids = to_device(batch.input_ids, network.device)
    mixin = network.get_mixin("eva")
    if images is None:
        return mixin.word_embedding_forward(ids)  # type: ignore[no-any-return]
    x = mixin.word_embedding_forward(ids, image_embeddings=of_rows(batch, images), pre_image=batch.image_starts)
    # A picture that no row shows was looked at because others look at theirs; so its way back is gone, too.
    return x if max(batch.pictures) >= 0 else x + 0 * images[0, 0, 0]  # type: ignore[no-any-return]


def dtype_of_products(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of what linear layers make of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if is_mixing(kind) else x.dtype


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask [B, 1, T, T] as what is added to the scores, once for all layers.

    Each layer would make, and keep, such a one of its own, and another one where the rows lie less far apart.
    """
    length = mask.shape[-1]
    width = -(-length // MASK_STEP) * MASK_STEP
    room = torch.zeros(*mask.shape[:-1], width, dtype=dtype, device=mask.device)[..., :length]
    return room.masked_fill_(~mask, float("-inf"))


def attend(
    hook: Callable[..., torch.Tensor] | None,
    number: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return the context [B, H, T, head_dim] of one layer, as a mixin's hook computes it if there is one."""
    if hook is not None:
        # P-tuning makes longer k and v; for the sake of q alone the way back would keep what they were cut from.
        return hook(q.contiguous(), k, v, mask, None, layer_id=number)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

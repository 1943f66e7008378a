"""Compute the loss of a batch: the final states of the language model, and the loss on the answers alone.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

The layers are walked here, because SAT's own pass compares whole masks in every layer, and multiplies every place with
the vocabulary. Where a mixin has changed more than what attention sees, SAT's pass has to be called.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.engine.network import to_device
from model.kernels.torch_ops import rotary_tables
from model.sat.lora import LoraLinear, copy_factors, has_dropout
from model.sat.low_rank import is_mixing
from model.sat.ptuning import PrefixMixin
from model.visualglm import BUILT_IN_HOOKS, ImageMixin, VisualGLMModel

from .batches import Batch, select, show
from .encoding import NO_LOSS
from .layers import linear_layers, run_layer, turns_of
from .loss import sum_divergences, sum_losses

MASK_STEP = 8  # how far apart, in numbers, PyTorch's kernels want the rows of a mask: a multiple
ATTENTION_HOOK = "attention_fn"  # what P-tuning answers


def final_states(
    network: VisualGLMModel, batch: Batch, images: torch.Tensor | None, twice: bool = False
) -> torch.Tensor:
    """Return the final states [B, T, D] of the language model.

    Args:
        network: the model.
        images: embeddings [P, L, D] of the batch's pictures.
        twice: compute the layers again on the way back instead of keeping what they computed.
    """
    x = embed(network, batch, images)
    positions, mask = (to_device(tensor, x.device) for tensor in (batch.position_ids, batch.attention_mask))
    dtype = dtype_of_products(x)
    tables = rotary_tables(positions.transpose(1, 2), network.rotary.dim, dtype)  # [B, T, 2, head_dim / 2] each
    turns = turns_of(*(table.flatten(2) for table in tables))
    hook = network.hooks.get(ATTENTION_HOOK)
    # SAT's own attention knows masks as numbers that are factors.
    visible = additive(mask, dtype) if hook is None else mask.to(dtype)
    transformer = network.transformer
    again = twice and torch.is_grad_enabled()
    # Where nothing is drawn, no random state has to be put back.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": again and has_dropout(transformer)}
    factors = {} if is_mixing(x.device.type) else copy_factors(linear_layers(transformer), x.dtype)
    for number, layer in enumerate(transformer.layers):
        run = partial(run_layer, layer, partial(attend, hook, number), network.residual_scale, factors, again)
        x = checkpoint(run, x, turns, visible, **options) if again else run(x, turns, visible)
    states: torch.Tensor = transformer.final_layernorm(x)
    return states


def logits_by_sat(network: VisualGLMModel, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [B, T, V] of SAT's own forward pass, which calls every hook."""
    given: dict[str, Any] = {"pre_image": batch.image_starts}
    if images is not None:
        given["image_embeddings"] = of_rows(batch, images)
    mask = batch.attention_mask.to(network.device).float()  # SAT takes a bool for what is hidden
    positions = batch.position_ids.to(network.device)
    logits: torch.Tensor
    logits, *_ = network(batch.input_ids.to(network.device), position_ids=positions, attention_mask=mask, **given)
    return logits


def has_changed_layers(network: VisualGLMModel) -> bool:
    """Whether a mixin that is not ours answers a hook, other than the attention's innermost."""
    return any(
        BUILT_IN_HOOKS.get(name) != origin for name, origin in network.hook_origins.items() if name != ATTENTION_HOOK
    )


def of_rows(batch: Batch, images: torch.Tensor) -> torch.Tensor:
    """Gather the image embeddings [B, L, D] of each row from [P, L, D]; a row without a picture gets arbitrary ones."""
    return images[to_device(torch.tensor(batch.pictures).clamp(min=0), images.device)]


def embed(network: VisualGLMModel, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the embedded batch [B, T, D], its pictures' embeddings [P, L, D] in their places."""
    ids = to_device(batch.input_ids, network.device)
    mixin: ImageMixin = network.get_mixin("eva")
    if images is None:
        return mixin.word_embedding_forward(ids)
    x = mixin.word_embedding_forward(ids, image_embeddings=of_rows(batch, images), pre_image=batch.image_starts)
    # A picture that no row shows was looked at because others look at theirs; so its way back is gone, too.
    return x if max(batch.pictures) >= 0 else x + 0 * images[0, 0, 0]


def dtype_of_products(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of what linear layers make of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if is_mixing(kind) else x.dtype


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a mask [B, 1, T, T] to the bias that every layer adds to its attention scores.

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


class Adapter:
    """All that was added to a network.

    Args:
        network: what is added to it later is not known here.

    Attributes:
        looks: whether something was added to what looks at pictures.
    """

    def __init__(self, network: VisualGLMModel) -> None:
        self.parts = [part for part in network.modules() if isinstance(part, LoraLinear | PrefixMixin)]
        self.looks = any(isinstance(part, LoraLinear) for part in network.vision_encoder.modules())

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have the network compute as its base does in a block, whose way back must not go beyond it."""
        self._turn(False)
        try:
            yield
        finally:
            self._turn(True)

    def _turn(self, is_on: bool) -> None:
        for part in self.parts:
            part.is_on = is_on


class AnswerLoss(nn.Module):
    """The loss of a batch's answers under a network, as a module that deepspeed can wrap.

    Args:
        network: the model.
        checkpoint_activations: compute the layers again on the way back instead of keeping what they computed.
        always_looks: compute the embedding of a blank picture for a batch without any, and the base's states where
            nothing is remembered, since ZeRO 3 wants every process to use the same weights in each pass, and back.
    """

    def __init__(
        self, network: VisualGLMModel, checkpoint_activations: bool = False, always_looks: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.adapter = Adapter(network)
        self.always_looks = always_looks
        self.checkpoint_activations = checkpoint_activations

    def forward(
        self,
        batch: Batch,
        images: torch.Tensor | None,
        weights: torch.Tensor | None = None,
        held: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sum over the batch's answer tokens, in float32.

        Args:
            images: embeddings [P, L, D] of the batch's pictures; None to compute them from its pixels.
            weights: [B], what each example's tokens count; None for 1 each.
            held: bool [B], True where an example holds the network to its base; None where there are never any.
        """
        places = answer_places(batch.labels)
        if held is not None:  # those come last
            places = places[held[places // batch.labels.shape[1]].argsort(stable=True)]
        counts = torch.ones(len(places)) if weights is None else weights[places // batch.labels.shape[1]]
        targets = batch.labels.flatten()[places + 1]
        images = self.look(batch) if images is None else images
        told = None if held is None else self.told_by_base(batch, images, held)
        places, targets, counts = (to_device(tensor, self.network.device) for tensor in (places, targets, counts))
        said = self.said(batch, images, places)
        learned = len(said) - (0 if told is None else len(told))
        head = nn.Identity() if has_changed_layers(self.network) else self.network.lm_head
        loss = sum_losses(head, said[:learned], targets[:learned], counts[:learned])
        return loss if told is None else loss + sum_divergences(head, said[learned:], told, counts[learned:])

    @torch.no_grad()
    def told_by_base(self, batch: Batch, images: torch.Tensor | None, held: torch.Tensor) -> torch.Tensor | None:
        """Return what the base's head is given [N, D] for the answers of the held examples; None where it is not asked.

        Args:
            images: what the network sees; the base sees the same, unless what looks at pictures is trained.
        """
        rows = held.nonzero().flatten().tolist()
        if not rows and not self.always_looks:
            return None
        part = select(batch, rows or [0])
        with self.adapter.away():
            if self.adapter.looks:
                part = show(part, part.pixels, part.pictures)
                images = self.look(part)
            places = answer_places(part.labels)[: None if rows else 0]
            return self.said(part, images, to_device(places, self.network.device))

    def said(self, batch: Batch, images: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
        """Return what the head is given [N, D] at places of the batch laid out flat; of SAT's own pass the logits."""
        if has_changed_layers(self.network):
            states = logits_by_sat(self.network, batch, images)
        else:
            states = final_states(self.network, batch, images, self.checkpoint_activations)
        # On the way back this adds rows, where an index in brackets would sort them first.
        return states.flatten(0, 1).index_select(0, places)

    def look(self, batch: Batch) -> torch.Tensor | None:
        """Return the embeddings [P, L, D] of a batch's pictures; None, or that of a blank one, where it has none."""
        pixels, device = batch.pixels, self.network.device
        if pixels is None and self.always_looks:
            pixels = torch.zeros(1, 3, *[self.network.image_size] * 2)
        return None if pixels is None else self.network.encode_image(to_device(pixels, device))


def answer_places(labels: torch.Tensor) -> torch.Tensor:
    """Return the places, in labels [B, T] laid out flat, whose states should predict the label after them."""
    learned = F.pad(labels[:, 1:] != NO_LOSS, (0, 1))
    return learned.flatten().nonzero().squeeze(1)

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
from model.sat.lora import LoraLinear, cast_lora_weights, has_dropout
from model.sat.low_rank import autocast_enabled
from model.sat.ptuning import PrefixMixin
from model.visualglm import BUILT_IN_HOOKS, ImageMixin, VisualGLMModel

from .batches import Batch, replace_images, select_examples
from .encoding import IGNORE_INDEX
from .layers import linear_layers, rotary_qkv, run_layer
from .loss import sum_cross_entropy, sum_kl_divergence

MASK_ALIGNMENT = 8  # how far apart, in numbers, PyTorch's kernels want the rows of a mask: a multiple
ATTENTION_HOOK = "attention_fn"  # what P-tuning answers


def final_hidden_states(
    network: VisualGLMModel, batch: Batch, images: torch.Tensor | None, recompute: bool = False
) -> torch.Tensor:
    """Return the final states [B, T, D] of the language model.

    Args:
        network: the model.
        images: embeddings [P, L, D] of the batch's pictures.
        twice: compute the layers again on the way back instead of keeping what they computed.
    """
    x = embed_inputs(network, batch, images)
    positions, mask = (to_device(tensor, x.device) for tensor in (batch.position_ids, batch.attention_mask))
    dtype = matmul_dtype(x)
    tables = rotary_tables(positions.transpose(1, 2), network.rotary.dim, dtype)  # [B, T, 2, head_dim / 2] each
    rotary = rotary_qkv(*(table.flatten(2) for table in tables))
    hook = network.hooks.get(ATTENTION_HOOK)
    # SAT's own attention knows masks as numbers that are factors.
    visible = additive_mask(mask, dtype) if hook is None else mask.to(dtype)
    transformer = network.transformer
    again = recompute and torch.is_grad_enabled()
    # Where nothing is drawn, no random state has to be put back.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": again and has_dropout(transformer)}
    factors = {} if autocast_enabled(x.device.type) else cast_lora_weights(linear_layers(transformer), x.dtype)
    for number, layer in enumerate(transformer.layers):
        run = partial(
            run_layer, layer, partial(compute_attention, hook, number), network.residual_scale, factors, again
        )
        x = checkpoint(run, x, rotary, visible, **options) if again else run(x, rotary, visible)
    states: torch.Tensor = transformer.final_layernorm(x)
    return states


def sat_logits(network: VisualGLMModel, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [B, T, V] of SAT's own forward pass, which calls every hook."""
    given: dict[str, Any] = {"pre_image": batch.image_starts}
    if images is not None:
        given["image_embeddings"] = gather_image_embeddings(batch, images)
    mask = batch.attention_mask.to(network.device).float()  # SAT takes a bool for what is hidden
    positions = batch.position_ids.to(network.device)
    logits: torch.Tensor
    logits, *_ = network(batch.input_ids.to(network.device), position_ids=positions, attention_mask=mask, **given)
    return logits


def has_foreign_hooks(network: VisualGLMModel) -> bool:
    """Whether a mixin that is not ours answers a hook, other than the attention's innermost."""
    return any(
        BUILT_IN_HOOKS.get(name) != origin for name, origin in network.hook_origins.items() if name != ATTENTION_HOOK
    )


def gather_image_embeddings(batch: Batch, images: torch.Tensor) -> torch.Tensor:
    """Gather the image embeddings [B, L, D] of each row from [P, L, D]; a row without a picture gets arbitrary ones."""
    return images[to_device(torch.tensor(batch.image_indices).clamp(min=0), images.device)]


def embed_inputs(network: VisualGLMModel, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the embedded batch [B, T, D], its pictures' embeddings [P, L, D] in their places."""
    ids = to_device(batch.input_ids, network.device)
    mixin: ImageMixin = network.get_mixin("eva")
    if images is None:
        return mixin.word_embedding_forward(ids)
    x = mixin.word_embedding_forward(
        ids, image_embeddings=gather_image_embeddings(batch, images), pre_image=batch.image_starts
    )
    # A picture that no row shows was looked at because others look at theirs; so its way back is gone, too.
    return x if max(batch.image_indices) >= 0 else x + 0 * images[0, 0, 0]


def matmul_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of what linear layers make of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if autocast_enabled(kind) else x.dtype


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a mask [B, 1, T, T] to the bias that every layer adds to its attention scores.

    Each layer would make, and keep, such a one of its own, and another one where the rows lie less far apart.
    """
    length = mask.shape[-1]
    width = -(-length // MASK_ALIGNMENT) * MASK_ALIGNMENT
    room = torch.zeros(*mask.shape[:-1], width, dtype=dtype, device=mask.device)[..., :length]
    return room.masked_fill_(~mask, float("-inf"))


def compute_attention(
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
        self.modules = [part for part in network.modules() if isinstance(part, LoraLinear | PrefixMixin)]
        self.adapts_image_encoder = any(isinstance(part, LoraLinear) for part in network.vision_encoder.modules())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Have the network compute as its base does in a block, whose way back must not go beyond it."""
        self._set_enabled(False)
        try:
            yield
        finally:
            self._set_enabled(True)

    def _set_enabled(self, is_on: bool) -> None:
        for part in self.modules:
            part.enabled = is_on


class AnswerLoss(nn.Module):
    """The loss of a batch's answers under a network, as a module that deepspeed can wrap.

    Args:
        network: the model.
        checkpoint_activations: compute the layers again on the way back instead of keeping what they computed.
        always_looks: compute the embedding of a blank picture for a batch without any, and the base's states where
            nothing is remembered, since ZeRO 3 wants every process to use the same weights in each pass, and back.
    """

    def __init__(
        self, network: VisualGLMModel, checkpoint_activations: bool = False, use_all_weights: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.adapter = Adapter(network)
        self.use_all_weights = use_all_weights
        self.checkpoint_activations = checkpoint_activations

    def forward(
        self,
        batch: Batch,
        images: torch.Tensor | None,
        example_weights: torch.Tensor | None = None,
        is_rehearsal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sum over the batch's answer tokens, in float32.

        Args:
            images: embeddings [P, L, D] of the batch's pictures; None to compute them from its pixels.
            weights: [B], what each example's tokens count; None for 1 each.
            held: bool [B], True where an example holds the network to its base; None where there are never any.
        """
        positions = answer_positions(batch.labels)
        if is_rehearsal is not None:  # those come last
            positions = positions[is_rehearsal[positions // batch.labels.shape[1]].argsort(stable=True)]
        token_weights = (
            torch.ones(len(positions))
            if example_weights is None
            else example_weights[positions // batch.labels.shape[1]]
        )
        targets = batch.labels.flatten()[positions + 1]
        images = self.encode_images(batch) if images is None else images
        teacher = None if is_rehearsal is None else self.teacher_states(batch, images, is_rehearsal)
        positions, targets, token_weights = (
            to_device(tensor, self.network.device) for tensor in (positions, targets, token_weights)
        )
        hidden_states = self.hidden_states(batch, images, positions)
        learned = len(hidden_states) - (0 if teacher is None else len(teacher))
        head = nn.Identity() if has_foreign_hooks(self.network) else self.network.lm_head
        loss = sum_cross_entropy(head, hidden_states[:learned], targets[:learned], token_weights[:learned])
        return (
            loss
            if teacher is None
            else loss + sum_kl_divergence(head, hidden_states[learned:], teacher, token_weights[learned:])
        )

    @torch.no_grad()
    def teacher_states(
        self, batch: Batch, images: torch.Tensor | None, is_rehearsal: torch.Tensor
    ) -> torch.Tensor | None:
        """Return what the base's head is given [N, D] for the answers of the held examples; None where it is not asked.

        Args:
            images: what the network sees; the base sees the same, unless what looks at pictures is trained.
        """
        rows = is_rehearsal.nonzero().flatten().tolist()
        if not rows and not self.use_all_weights:
            return None
        part = select_examples(batch, rows or [0])
        with self.adapter.disabled():
            if self.adapter.adapts_image_encoder:
                part = replace_images(part, part.pixels, part.image_indices)
                images = self.encode_images(part)
            positions = answer_positions(part.labels)[: None if rows else 0]
            return self.hidden_states(part, images, to_device(positions, self.network.device))

    def hidden_states(self, batch: Batch, images: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        """Return what the head is given [N, D] at places of the batch laid out flat; of SAT's own pass the logits."""
        if has_foreign_hooks(self.network):
            states = sat_logits(self.network, batch, images)
        else:
            states = final_hidden_states(self.network, batch, images, self.checkpoint_activations)
        # On the way back this adds rows, where an index in brackets would sort them first.
        return states.flatten(0, 1).index_select(0, positions)

    def encode_images(self, batch: Batch) -> torch.Tensor | None:
        """Return the embeddings [P, L, D] of a batch's pictures; None, or that of a blank one, where it has none."""
        pixels, device = batch.pixels, self.network.device
        if pixels is None and self.use_all_weights:
            pixels = torch.zeros(1, 3, *[self.network.image_size] * 2)
        return None if pixels is None else self.network.encode_image(to_device(pixels, device))


def answer_positions(labels: torch.Tensor) -> torch.Tensor:
    """Return the places, in labels [B, T] laid out flat, whose states should predict the label after them."""
    learned = F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))
    return learned.flatten().nonzero().squeeze(1)

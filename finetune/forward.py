"""Compute the training loss: forward pass of the language model, cross-entropy and KL divergence of the answer tokens.

    h = LN1(x);  a = h * alpha + Attention(h);  m = LN2(a);  x = m * alpha + MLP(m)        for each layer

Training examples use the cross-entropy of their answer tokens. Rehearsal examples use the KL divergence to the token
distribution of the teacher, which is the base model: the network with its adapters disabled.

The layers are run from here, because SAT's forward pass compares the complete mask in every layer, and computes logits
for every position. SAT's forward pass is still used if a mixin overrides more than the attention function.
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

MASK_ALIGNMENT = 8  # PyTorch's attention kernels want the row stride of a mask to be a multiple of this many elements
ATTENTION_HOOK = "attention_fn"  # the hook that P-tuning implements


def final_hidden_states(
    network: VisualGLMModel, batch: Batch, images: torch.Tensor | None, recompute: bool = False
) -> torch.Tensor:
    """Return the final hidden states [B, T, D] of the language model.

    Args:
        network: the model.
        images: image embeddings [P, L, D] of the batch.
        recompute: whether to recompute the layers in the backward pass instead of saving their activations.
    """
    x = embed_inputs(network, batch, images)
    positions, mask = (to_device(tensor, x.device) for tensor in (batch.position_ids, batch.attention_mask))
    dtype = matmul_dtype(x)
    tables = rotary_tables(positions.transpose(1, 2), network.rotary.dim, dtype)  # [B, T, 2, head_dim / 2] each
    rotary = rotary_qkv(*(table.flatten(2) for table in tables))
    hook = network.hooks.get(ATTENTION_HOOK)
    # A hook gets SAT's mask, which is multiplicative: 1 for visible, 0 for hidden.
    visible = additive_mask(mask, dtype) if hook is None else mask.to(dtype)
    transformer = network.transformer
    checkpoints = recompute and torch.is_grad_enabled()
    # Without dropout there is no random state to restore.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": checkpoints and has_dropout(transformer)}
    lora_weights = {} if autocast_enabled(x.device.type) else cast_lora_weights(linear_layers(transformer), x.dtype)
    for number, layer in enumerate(transformer.layers):
        run = partial(
            run_layer,
            layer,
            partial(compute_attention, hook, number),
            network.residual_scale,
            lora_weights,
            checkpoints,
        )
        x = checkpoint(run, x, rotary, visible, **options) if checkpoints else run(x, rotary, visible)
    states: torch.Tensor = transformer.final_layernorm(x)
    return states


def sat_logits(network: VisualGLMModel, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [B, T, V] of SAT's forward pass, which calls every hook."""
    options: dict[str, Any] = {"pre_image": batch.image_starts}
    if images is not None:
        options["image_embeddings"] = gather_image_embeddings(batch, images)
    mask = batch.attention_mask.to(network.device).float()  # in SAT a bool mask is True at hidden positions
    positions = batch.position_ids.to(network.device)
    logits: torch.Tensor
    logits, *_ = network(batch.input_ids.to(network.device), position_ids=positions, attention_mask=mask, **options)
    return logits


def has_foreign_hooks(network: VisualGLMModel) -> bool:
    """Return whether a mixin from outside of this project implements a hook other than the attention function."""
    return any(
        BUILT_IN_HOOKS.get(name) != origin for name, origin in network.hook_origins.items() if name != ATTENTION_HOOK
    )


def gather_image_embeddings(batch: Batch, images: torch.Tensor) -> torch.Tensor:
    """Return the image embeddings [B, L, D] of the examples from [P, L, D].

    An example without an image gets the first image's embeddings, which are not used.
    """
    return images[to_device(torch.tensor(batch.image_indices).clamp(min=0), images.device)]


def embed_inputs(network: VisualGLMModel, batch: Batch, images: torch.Tensor | None) -> torch.Tensor:
    """Return the input embeddings [B, T, D] of a batch, with its image embeddings [P, L, D] inserted."""
    ids = to_device(batch.input_ids, network.device)
    mixin: ImageMixin = network.get_mixin("eva")
    if images is None:
        return mixin.word_embedding_forward(ids)
    x = mixin.word_embedding_forward(
        ids, image_embeddings=gather_image_embeddings(batch, images), pre_image=batch.image_starts
    )
    # A blank image that no example has (see `use_all_weights`) needs a backward pass, too, with gradients of 0.
    return x if max(batch.image_indices) >= 0 else x + 0 * images[0, 0, 0]


def matmul_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of a linear layer's output for the input x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if autocast_enabled(kind) else x.dtype


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a bool mask [B, 1, T, T] to the bias (0 or -inf) of the attention scores.

    With a bool mask each layer would make and save a bias of its own, and a second one if its rows were not aligned.
    """
    length = mask.shape[-1]
    width = -(-length // MASK_ALIGNMENT) * MASK_ALIGNMENT
    bias = torch.zeros(*mask.shape[:-1], width, dtype=dtype, device=mask.device)[..., :length]
    return bias.masked_fill_(~mask, float("-inf"))


def compute_attention(
    hook: Callable[..., torch.Tensor] | None,
    number: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return the attention output [B, H, T, head_dim] of a layer, computed by a mixin's hook if not None."""
    if hook is not None:
        # P-tuning copies k and v to prepend its prefix. A q that is a view would keep the joint QKV tensor in memory.
        return hook(q.contiguous(), k, v, mask, None, layer_id=number)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Adapter:
    """The LoRA layers and prefixes of a network.

    Args:
        network: the network; modules that are added to it later are not included.

    Attributes:
        modules: the LoRA layers and prefixes.
        adapts_image_encoder: whether the image encoder has LoRA layers.
    """

    def __init__(self, network: VisualGLMModel) -> None:
        self.modules = [module for module in network.modules() if isinstance(module, LoraLinear | PrefixMixin)]
        self.adapts_image_encoder = any(isinstance(module, LoraLinear) for module in network.vision_encoder.modules())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Disable the adapter in a block. Do not backpropagate through the block after it has ended."""
        self._set_enabled(False)
        try:
            yield
        finally:
            self._set_enabled(True)

    def _set_enabled(self, enabled: bool) -> None:
        for module in self.modules:
            module.enabled = enabled


class AnswerLoss(nn.Module):
    """The loss of a batch's answer tokens, as a module that deepspeed can wrap.

    Args:
        network: the model.
        checkpoint_activations: whether to recompute the layers in the backward pass instead of saving activations.
        use_all_weights: whether to encode a blank image for a batch without images, and to run the teacher for a batch
            without rehearsal examples. ZeRO 3 needs this: in each forward and backward pass every rank has to use the
            same weights.
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
        """Return the loss, summed over the batch's answer tokens, in float32.

        Args:
            batch: the examples.
            images: image embeddings [P, L, D] of the batch; None computes them from its pixels.
            example_weights: [B], the loss weight of each example's tokens; None for 1.
            is_rehearsal: bool [B], True for examples with a KL divergence loss; None if no batch has any.
        """
        positions, length = answer_positions(batch.labels), batch.labels.shape[1]
        if is_rehearsal is not None:  # rehearsal tokens come last
            positions = positions[is_rehearsal[positions // length].argsort(stable=True)]
        weights = torch.ones(len(batch.labels)) if example_weights is None else example_weights
        token_weights = weights[positions // length]
        targets = batch.labels.flatten()[positions + 1]
        images = self.encode_images(batch) if images is None else images
        teacher = None if is_rehearsal is None else self.teacher_states(batch, images, is_rehearsal)
        positions, targets, token_weights = (
            to_device(tensor, self.network.device) for tensor in (positions, targets, token_weights)
        )
        states = self.hidden_states(batch, images, positions)
        split = len(states) - (0 if teacher is None else len(teacher))
        head = nn.Identity() if has_foreign_hooks(self.network) else self.network.lm_head
        loss = sum_cross_entropy(head, states[:split], targets[:split], token_weights[:split])
        if teacher is not None:
            loss = loss + sum_kl_divergence(head, states[split:], teacher, token_weights[split:])
        return loss

    @torch.no_grad()
    def teacher_states(
        self, batch: Batch, images: torch.Tensor | None, is_rehearsal: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the base model's hidden states [N, D] at the rehearsal examples' answers; None if it was not run.

        Args:
            batch: the examples.
            images: image embeddings of the network, reused for the base model unless the image encoder has an adapter.
            is_rehearsal: bool [B], True for rehearsal examples.
        """
        examples = is_rehearsal.nonzero().flatten().tolist()
        if not examples and not self.use_all_weights:
            return None
        selected = select_examples(batch, examples or [0])
        with self.adapter.disabled():
            if self.adapter.adapts_image_encoder:
                selected = replace_images(selected, selected.pixels, selected.image_indices)
                images = self.encode_images(selected)
            positions = answer_positions(selected.labels)[: None if examples else 0]
            return self.hidden_states(selected, images, to_device(positions, self.network.device))

    def hidden_states(self, batch: Batch, images: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        """Return the final hidden states [N, D] at flattened positions; logits [N, V] if there are foreign hooks."""
        if has_foreign_hooks(self.network):
            states = sat_logits(self.network, batch, images)
        else:
            states = final_hidden_states(self.network, batch, images, self.checkpoint_activations)
        # index_select, whose backward pass only adds rows; that of states[positions] would sort the positions first.
        return states.flatten(0, 1).index_select(0, positions)

    def encode_images(self, batch: Batch) -> torch.Tensor | None:
        """Return the image embeddings [P, L, D] of a batch; without images None, or the one of a blank image."""
        pixels, device = batch.pixels, self.network.device
        if pixels is None and self.use_all_weights:
            pixels = torch.zeros(1, 3, *[self.network.image_size] * 2)
        return None if pixels is None else self.network.encode_image(to_device(pixels, device))


def answer_positions(labels: torch.Tensor) -> torch.Tensor:
    """Return the positions, in the flattened labels [B, T], at which the next label is an answer token."""
    is_trained = F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))
    return is_trained.flatten().nonzero().squeeze(1)

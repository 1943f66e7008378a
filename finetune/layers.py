"""A layer of the language model on the way forth and back, in as few steps as it can be made of.

A batch of one short row costs a GPU less than the host takes to start what it computes. So what autograd makes of a
dozen steps is one, with its way back written by hand, wherever the weights are frozen and nobody watches the calls.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model.kernels.torch_ops import apply_rotary
from model.quantization.nf4 import Nf4Linear
from model.sat.lora import LoraWeights
from model.sat.low_rank import autocast_enabled, frozen_forward, has_hooks, input_gradient, is_frozen

AttentionFn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def run_layer(
    layer: Any,
    attention_fn: AttentionFn,
    alpha: float,
    factors: LoraWeights,
    recompute: bool,
    x: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return the states [B, T, D] after a layer.

    Args:
        attend: computes the context of q, k, v and the mask.
        alpha: factor of the residual branch.
        factors: LoRA's, as far as they are at hand.
        again: whether the layer will be computed again on the way back. That ends with the last thing that is kept, so
            it spares the last product where this is a step by itself.
        turns: see `rotary_qkv`.
    """
    h = layer.input_layernorm(x)
    attention = layer.attention
    q, k, v = RotaryQKV.apply(
        apply_linear(attention.query_key_value, h, factors), attention.num_attention_heads, *rotary
    )
    context = attention_fn(q, k, v, mask)
    a = torch.add(apply_linear(attention.dense, context.transpose(1, 2).flatten(2), factors), h, alpha=alpha)
    mlp = layer.mlp
    if not recompute and can_fuse_mlp(layer, a):
        # Weights of 4 bits are for those who have little memory.
        save_activations = not isinstance(mlp.dense_h_to_4h, Nf4Linear)
        states: torch.Tensor = FrozenMlp.apply(a, layer, alpha, save_activations)
        return states
    m = layer.post_attention_layernorm(a)
    inner = F.gelu(apply_linear(mlp.dense_h_to_4h, m, factors), approximate="tanh")
    return torch.add(apply_linear(mlp.dense_4h_to_h, inner, factors), m, alpha=alpha)


def linear_layers(transformer: Any) -> Iterator[nn.Module]:
    """Yield the linear layers that `run_layer` calls, and what else is beside them, without a walk through them all."""
    for layer in transformer.layers:
        yield from layer.attention.children()
        yield from layer.mlp.children()


def apply_linear(layer: Any, x: torch.Tensor, factors: LoraWeights) -> torch.Tensor:
    """Return what a linear layer makes of x; as a module, which deepspeed may watch, where nothing shorter will do."""
    if layer in factors:
        product: torch.Tensor = layer.fused_forward(x, *factors[layer])
        return product
    return frozen_forward(layer, x) if is_frozen(layer) else layer(x)


def can_fuse_mlp(layer: Any, x: torch.Tensor) -> bool:
    """Whether `FrozenMlp` may stand for the second half of a layer."""
    norm, mlp = layer.post_attention_layernorm, layer.mlp
    plain = isinstance(norm, nn.LayerNorm) and not has_hooks(norm) and not has_hooks(mlp)
    frozen = plain and not norm.weight.requires_grad and not hasattr(norm.weight, "ds_id")
    return (
        frozen and is_frozen(mlp.dense_h_to_4h) and is_frozen(mlp.dense_4h_to_h) and not autocast_enabled(x.device.type)
    )


def rotary_qkv(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the cosines, sines and negated sines [B, T, 3, 1, head_dim] by which q, k and v turn, v not at all.

    Args:
        cos, sin: [B, T, head_dim].
    """
    cos, sin = (part[:, :, None, None].expand(-1, -1, 2, -1, -1) for part in (cos, sin))
    cos, sin = (F.pad(part, (0, 0, 0, 0, 0, 1), value=rest) for part, rest in ((cos, 1.0), (sin, 0.0)))
    return cos, sin, -sin


class RotaryQKV(torch.autograd.Function):
    """q, k and v [B, H, T, head_dim] of what a layer makes of its states, q and k turned by their positions.

    They lie side by side, so that nothing is copied for the sake of one of them.
    """

    @staticmethod
    def forward(
        context: Any, qkv: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor, back: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        context.save_for_backward(cos, back)
        return apply_rotary(qkv.unflatten(-1, (3, heads, -1)), cos, sin).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = torch.stack([part.transpose(1, 2) for part in gradients], dim=2)
        return apply_rotary(gradient, *context.saved_tensors).flatten(2), None, None, None, None


class FrozenMlp(torch.autograd.Function):
    """The second half of a layer that is not trained: m = LN(a);  m * alpha + MLP(m)."""

    @staticmethod
    def forward(context: Any, a: torch.Tensor, layer: Any, alpha: float, save_activations: bool) -> torch.Tensor:
        """Return the states [B, T, D].

        Args:
            a: [B, T, D], the states after attention.
            layer: of which this is the second half.
            alpha: factor of the residual branch.
            keeps: whether to keep the MLP's inside, 4 D a token, instead of computing it again on the way back.
        """
        m, mean, spread = normalize(layer, a)
        inner = frozen_forward(layer.mlp.dense_h_to_4h, m)
        made = frozen_forward(layer.mlp.dense_4h_to_h, F.gelu(inner, approximate="tanh"))
        context.save_for_backward(a, mean, spread, inner if save_activations else None)
        context.layer, context.alpha = layer, alpha
        return made.add_(m, alpha=alpha)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, mean, spread, inner = context.saved_tensors
        layer, gradient = context.layer, gradients[0]
        norm, mlp = layer.post_attention_layernorm, layer.mlp
        if inner is None:
            inner = frozen_forward(mlp.dense_h_to_4h, normalize(layer, a)[0])
        given = input_gradient(mlp.dense_4h_to_h, gradient)
        given = torch.ops.aten.gelu_backward(given, inner, approximate="tanh")
        given = input_gradient(mlp.dense_h_to_4h, given).add_(gradient, alpha=context.alpha)
        wants = (True, False, False)
        back = torch.ops.aten.native_layer_norm_backward
        shape, weight, bias = norm.normalized_shape, norm.weight, norm.bias
        return back(given, a, shape, mean, spread, weight, bias, wants)[0], None, None, None


def normalize(layer: Any, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a layer's second norm makes of a, and the means and inverse deviations of the rows."""
    norm = layer.post_attention_layernorm
    return torch.native_layer_norm(a, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

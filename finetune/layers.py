"""Forward and backward pass of one layer of the language model, with few autograd nodes.

For a batch of one short sequence a GPU computes faster than the host launches kernels. So autograd functions with
hand-written backward passes replace a dozen autograd nodes each, if the weights are frozen and have no hooks.
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
    """Return the hidden states [B, T, D] after a layer.

    Args:
        layer: the layer.
        attention_fn: computes the attention output from q, k, v and the mask.
        alpha: factor of the skip connections.
        factors: LoRA matrices of some of the linear layers, already cast.
        recompute: whether the layer is recomputed in the backward pass. `FrozenMlp` is not used then: recomputation
            stops at the last saved tensor, and so skips a last linear layer that is an autograd node of its own.
        x: hidden states [B, T, D] before the layer.
        rotary: see `rotary_qkv`.
        mask: the attention mask or bias.
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
        # 4-bit weights are chosen to save memory, so activations are recomputed, too.
        save_activations = not isinstance(mlp.dense_h_to_4h, Nf4Linear)
        states: torch.Tensor = FrozenMlp.apply(a, layer, alpha, save_activations)
        return states
    m = layer.post_attention_layernorm(a)
    inner = F.gelu(apply_linear(mlp.dense_h_to_4h, m, factors), approximate="tanh")
    return torch.add(apply_linear(mlp.dense_4h_to_h, inner, factors), m, alpha=alpha)


def linear_layers(transformer: Any) -> Iterator[nn.Module]:
    """Yield the linear layers that `run_layer` calls, and their sibling modules; faster than `modules()`."""
    for layer in transformer.layers:
        yield from layer.attention.children()
        yield from layer.mlp.children()


def apply_linear(layer: Any, x: torch.Tensor, factors: LoraWeights) -> torch.Tensor:
    """Apply a linear layer to x; call it as a module only if there is no faster equivalent."""
    if layer in factors:
        product: torch.Tensor = layer.fused_forward(x, *factors[layer])
        return product
    return frozen_forward(layer, x) if is_frozen(layer) else layer(x)


def can_fuse_mlp(layer: Any, x: torch.Tensor) -> bool:
    """Return whether `FrozenMlp` may replace the second half of a layer."""
    norm, mlp = layer.post_attention_layernorm, layer.mlp
    plain = isinstance(norm, nn.LayerNorm) and not has_hooks(norm) and not has_hooks(mlp)
    frozen = plain and not norm.weight.requires_grad and not hasattr(norm.weight, "ds_id")  # sharded by ZeRO 3
    return (
        frozen and is_frozen(mlp.dense_h_to_4h) and is_frozen(mlp.dense_4h_to_h) and not autocast_enabled(x.device.type)
    )


def rotary_qkv(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return cosines, sines and negated sines [B, T, 3, 1, head_dim] of the rotary embedding of q, k and v.

    For v the cosine is 1 and the sine 0, so that it is not rotated.

    Args:
        cos, sin: [B, T, head_dim].
    """
    cos, sin = (table[:, :, None, None].expand(-1, -1, 2, -1, -1) for table in (cos, sin))
    cos, sin = (F.pad(table, (0, 0, 0, 0, 0, 1), value=for_v) for table, for_v in ((cos, 1.0), (sin, 0.0)))
    return cos, sin, -sin


class RotaryQKV(torch.autograd.Function):
    """Split the output of a QKV layer into q, k and v, and rotate q and k by their positions.

    The input is [B, T, 3 D], the outputs are [B, H, T, head_dim]. They are views of one tensor, which is rotated as a
    whole, so that none of them is copied.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor, negated_sin: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, negated_sin)
        return apply_rotary(qkv.unflatten(-1, (3, heads, -1)), cos, sin).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = torch.stack([gradient.transpose(1, 2) for gradient in gradients], dim=2)
        return apply_rotary(gradient, *ctx.saved_tensors).flatten(2), None, None, None, None


class FrozenMlp(torch.autograd.Function):
    """The second half of a frozen layer: m = LN(a);  m * alpha + MLP(m)."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, layer: Any, alpha: float, save_activations: bool) -> torch.Tensor:
        """Return the hidden states [B, T, D] after the layer.

        Args:
            ctx: autograd's context.
            a: hidden states [B, T, D] after attention.
            layer: the layer.
            alpha: factor of the skip connections.
            save_activations: whether to save the MLP's inner activations, 4 D per token, instead of recomputing them
                in the backward pass.
        """
        m, mean, rstd = normalize(layer, a)
        inner = frozen_forward(layer.mlp.dense_h_to_4h, m)
        output = frozen_forward(layer.mlp.dense_4h_to_h, F.gelu(inner, approximate="tanh"))
        ctx.save_for_backward(a, mean, rstd, inner if save_activations else None)
        ctx.layer, ctx.alpha = layer, alpha
        return output.add_(m, alpha=alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, mean, rstd, inner = ctx.saved_tensors
        layer, output_gradient = ctx.layer, gradients[0]
        norm, mlp = layer.post_attention_layernorm, layer.mlp
        if inner is None:
            inner = frozen_forward(mlp.dense_h_to_4h, normalize(layer, a)[0])
        gradient = input_gradient(mlp.dense_4h_to_h, output_gradient)
        gradient = torch.ops.aten.gelu_backward(gradient, inner, approximate="tanh")
        gradient = input_gradient(mlp.dense_h_to_4h, gradient).add_(output_gradient, alpha=ctx.alpha)
        output_mask = (True, False, False)  # the gradient of the input only
        layer_norm_backward = torch.ops.aten.native_layer_norm_backward
        shape, weight, bias = norm.normalized_shape, norm.weight, norm.bias
        return layer_norm_backward(gradient, a, shape, mean, rstd, weight, bias, output_mask)[0], None, None, None


def normalize(layer: Any, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Apply a layer's second LayerNorm to `a`.

    Returns:
        The output, and each token's mean and reciprocal standard deviation.
    """
    norm = layer.post_attention_layernorm
    return torch.native_layer_norm(a, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

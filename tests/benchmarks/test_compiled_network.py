"""Test the compiled transformer of the decoding benchmark: its KV cache does not change the outputs."""

import torch
import torch.nn.functional as F

from benchmarks.parts.compiled_network import PlainLayer, PlainNetwork, rotate

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 120, "inner_hidden_size": 64, "num_layers": 2}


def attend_at_once(layer: PlainLayer, x: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Return the output [T, D] of a layer for a complete sequence x [T, D]."""
    qkv = layer.query_key_value(layer.attention_norm(x)).view(len(x), 3, layer.num_heads, -1).permute(1, 2, 0, 3)
    cos_sin = rotations[: len(x)].unbind(1)
    query, key = (rotate(one, cos_sin) for one in qkv[:2])
    context = F.scaled_dot_product_attention(query, key, qkv[2], is_causal=True)
    x = x + layer.dense(context.transpose(0, 1).flatten(1))
    return x + layer.to_h(F.gelu(layer.to_4h(layer.mlp_norm(x)), approximate="tanh"))


@torch.inference_mode()
def test_the_cache_gives_what_the_complete_sequence_gives() -> None:
    network = PlainNetwork(SIZES, 1).eval()
    layer, x = network.layers[0], torch.randn(7, 32)
    steps = [layer(x[t : t + 1], torch.tensor([t]), network.rotations[t]) for t in range(len(x))]
    assert torch.allclose(torch.cat(steps), attend_at_once(layer, x, network.rotations), atol=1e-5)


@torch.inference_mode()
def test_each_sequence_gets_a_token() -> None:
    tokens = PlainNetwork(SIZES, 3).eval()(torch.tensor([1, 2, 3]), torch.tensor([0]))
    assert tokens.shape == (3,)
    assert tokens.max() < SIZES["vocab_size"]

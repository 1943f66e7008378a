"""`frozen_forward` and `input_gradient` match a layer's forward pass and autograd."""

import pytest
import torch
from torch import nn

from model.quantization.nf4 import Nf4Linear
from model.sat.low_rank import frozen_forward, input_gradient, is_frozen
from tests.helpers.sat_programs import close
from tests.model.test_finetuned import load

SIZE = 128


@pytest.fixture(scope="module")
def layers() -> dict[str, nn.Module]:
    """One layer of each supported type. Do not change them."""
    network = load(use_lora=True)
    network.disable_untrainable_params()
    first = network.transformer.layers[0]
    weight = torch.randn(3 * SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    bias = nn.Parameter(torch.ones(3 * SIZE), requires_grad=False)
    plain = nn.Linear(SIZE, 3 * SIZE).requires_grad_(False)
    original = first.attention.dense.original
    return {
        "plain": plain,
        "nf4": Nf4Linear(weight, bias),
        "column": first.mlp.dense_h_to_4h,
        "row": first.mlp.dense_4h_to_h,
        "row of LoRA": original,
    }


@pytest.mark.parametrize("name", ["plain", "nf4", "column", "row", "row of LoRA"])
def test_forward_and_input_gradient(name: str, layers: dict[str, nn.Module]) -> None:
    layer = layers[name]
    assert is_frozen(layer)
    width = layer.shape[1] if isinstance(layer, Nf4Linear) else layer.weight.shape[1]
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = layer(x)
    assert torch.equal(frozen_forward(layer, x), expected)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (wanted,) = torch.autograd.grad(expected, x, gradient)
    assert close(input_gradient(layer, gradient), wanted)


def test_trainable_layers_and_layers_with_hooks_are_not_frozen() -> None:
    trained, watched = (nn.Linear(4, 4) for _ in range(2))
    watched.requires_grad_(False)
    assert is_frozen(watched)
    watched.register_forward_hook(lambda *_: None)
    assert not any(map(is_frozen, (trained, watched, nn.Bilinear(2, 2, 2))))

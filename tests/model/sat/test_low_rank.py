"""The fused LoRA function has the same outputs and gradients as autograd."""

import pytest
import torch
from torch import nn

from model.sat.low_rank import CastLoraWeights, FusedLoraFunction

SHAPE, RANK, OUT = (2, 5, 8), 3, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random numbers that require a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("sees_other", [False, True])
def test_output_and_gradients(parts: int, sees_other: bool) -> None:
    layer = nn.Linear(SHAPE[-1], parts * OUT, dtype=torch.float64).requires_grad_(False)
    x, other = draw(*SHAPE), draw(*SHAPE, seed=1)
    down, up = draw(parts * RANK, SHAPE[-1], seed=2), draw(parts, OUT, RANK, seed=3)
    dropped_x = other if sees_other else None
    wanted = [x, down, up, *([other] if sees_other else [])]

    def plain() -> torch.Tensor:
        inner = ((x if dropped_x is None else dropped_x) @ down.t()).unflatten(-1, (parts, RANK))
        return layer(x) + 0.7 * torch.einsum("btpr,por->btpo", inner, up).flatten(-2)

    ours, expected = FusedLoraFunction.apply(x, dropped_x, down, up, layer, 0.7), plain()
    assert torch.allclose(ours, expected)
    weights = draw(*expected.shape, seed=4).detach()
    found, hoped = (torch.autograd.grad((result * weights).sum(), wanted) for result in (ours, expected))
    assert all(torch.allclose(a, b) for a, b in zip(found, hoped, strict=True))


def test_the_first_input_needs_no_gradient() -> None:
    layer = nn.Linear(SHAPE[-1], OUT, dtype=torch.float64).requires_grad_(False)
    down, up = draw(RANK, SHAPE[-1]), draw(1, OUT, RANK, seed=1)
    FusedLoraFunction.apply(draw(*SHAPE).detach(), None, down, up, layer, 1.0).sum().backward()
    assert down.grad is not None
    assert up.grad is not None


def test_cast_lora_weights() -> None:
    lora_weights = [nn.Parameter(draw(*shape, seed=n).float()) for n, shape in enumerate([(3, 8)] * 3 + [(4, 3)] * 3)]
    lora_weights += [nn.Parameter(draw(*shape, seed=n).float()) for n, shape in enumerate([(2, 5), (7, 2)])]
    lora_a, lora_b, down, up = CastLoraWeights.apply(torch.bfloat16, [3, 1], *lora_weights)
    assert torch.equal(lora_a, torch.cat(lora_weights[:3]).bfloat16())
    assert torch.equal(lora_b, torch.stack(lora_weights[3:6]).bfloat16())
    assert torch.equal(down, lora_weights[6].bfloat16())
    assert torch.equal(up, lora_weights[7][None].bfloat16())
    (2 * lora_a.sum() + 3 * lora_b.sum() + 4 * down.sum()).backward()
    expected = [2.0] * 3 + [3.0] * 3 + [4.0, 0.0]
    for factor, gradient in zip(lora_weights, expected, strict=True):
        assert torch.equal(factor.grad, torch.full_like(factor, gradient))

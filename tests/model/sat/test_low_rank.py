"""LoRA's arithmetic written by hand is that of autograd."""

import pytest
import torch
from torch import nn

from model.sat.low_rank import FactorCopies, LowRankProduct

SHAPE, RANK, OUT = (2, 5, 8), 3, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("sees_other", [False, True])
def test_a_product_and_its_gradients(parts: int, sees_other: bool) -> None:
    layer = nn.Linear(SHAPE[-1], parts * OUT, dtype=torch.float64).requires_grad_(False)
    x, other = draw(*SHAPE), draw(*SHAPE, seed=1)
    down, up = draw(parts * RANK, SHAPE[-1], seed=2), draw(parts, OUT, RANK, seed=3)
    seen = other if sees_other else None
    wanted = [x, down, up, *([other] if sees_other else [])]

    def plain() -> torch.Tensor:
        inner = ((x if seen is None else seen) @ down.t()).unflatten(-1, (parts, RANK))
        return layer(x) + 0.7 * torch.einsum("btpr,por->btpo", inner, up).flatten(-2)

    ours, expected = LowRankProduct.apply(x, seen, down, up, layer, 0.7), plain()
    assert torch.allclose(ours, expected)
    weights = draw(*expected.shape, seed=4).detach()
    found, hoped = (torch.autograd.grad((result * weights).sum(), wanted) for result in (ours, expected))
    assert all(torch.allclose(a, b) for a, b in zip(found, hoped, strict=True))


def test_what_comes_first_needs_no_gradient() -> None:
    layer = nn.Linear(SHAPE[-1], OUT, dtype=torch.float64).requires_grad_(False)
    down, up = draw(RANK, SHAPE[-1]), draw(1, OUT, RANK, seed=1)
    LowRankProduct.apply(draw(*SHAPE).detach(), None, down, up, layer, 1.0).sum().backward()
    assert down.grad is not None
    assert up.grad is not None


def test_copies_of_factors() -> None:
    factors = [nn.Parameter(draw(*shape, seed=n).float()) for n, shape in enumerate([(3, 8)] * 3 + [(4, 3)] * 3)]
    factors += [nn.Parameter(draw(*shape, seed=n).float()) for n, shape in enumerate([(2, 5), (7, 2)])]
    downs, ups, down, up = FactorCopies.apply(torch.bfloat16, [3, 1], *factors)
    assert torch.equal(downs, torch.cat(factors[:3]).bfloat16())
    assert torch.equal(ups, torch.stack(factors[3:6]).bfloat16())
    assert torch.equal(down, factors[6].bfloat16())
    assert torch.equal(up, factors[7][None].bfloat16())
    (2 * downs.sum() + 3 * ups.sum() + 4 * down.sum()).backward()
    expected = [2.0] * 3 + [3.0] * 3 + [4.0, 0.0]
    for factor, gradient in zip(factors, expected, strict=True):
        assert torch.equal(factor.grad, torch.full_like(factor, gradient))

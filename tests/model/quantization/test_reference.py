"""Compare quantized weights with a reference implementation, for exact equality, in all dtypes."""

import math
from collections.abc import Callable

import pytest
import torch

from model.kernels import torch_ops
from model.kernels.torch_ops import quantize_rows
from model.quantization.quantize import CLIP_RATIOS, quantize_weight

SHAPES = [(64, 256), (33, 384), (20, 192), (7, 10), (1, 128), (70, 4096)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def alternate_zeros(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight with zero rows and, in the other rows, zero groups."""
    weight = weight.clone()
    weight[::2] = 0
    weight[:, : weight.shape[1] // 2] = 0
    return weight


def constant_rows(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight whose rows have one value each."""
    return weight[:, :1].expand_as(weight).contiguous()


VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "normal": lambda weight: 0.02 * weight,
    "rows of different magnitude": lambda weight: weight * torch.logspace(-9, 4, len(weight))[:, None],
    "zeros": alternate_zeros,
    "constant rows": constant_rows,
    "huge": lambda weight: 1e4 * weight,
    "tiny": lambda weight: 1e-7 * weight,
    "subnormal": lambda weight: 1e-40 * weight,
    "one outlier in a row": lambda weight: torch.cat((1000 * weight[:, :1], weight[:, 1:]), dim=1),
    "few different values": lambda weight: (2 * weight).round(),
}


def quantize_rows_plainly(weight: torch.Tensor, largest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 numbers and half-precision scales of rows, as the published format defines them."""
    scale = (weight.abs().amax(1).float() / largest).half()
    divisor = scale.float().where(scale > 0, torch.inf)
    return (weight.float() / divisor[:, None]).round().clamp(-largest, largest).to(torch.int8), scale


def quantize_groups_plainly(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return packed 4-bit numbers, scales and groups: in each group, the clip ratio with the least squared error."""
    scale = weight.float().abs().amax(1).half().float()
    scale = scale.where(scale > 0, 1)
    wanted = (weight.float() / scale[:, None]).view(len(weight), -1, math.gcd(weight.shape[1], 128))
    low, high = wanted.amin(2, keepdim=True), wanted.amax(2, keepdim=True)
    best: tuple[torch.Tensor, ...] | None = None
    for ratio in CLIP_RATIOS:
        step = ((high - low) * (ratio / 15)).bfloat16().float().clamp(min=2.0**-30)
        zero = ((high + low) / 2 + step / 2).bfloat16().float()
        numbers = ((wanted - zero) / step).round().clamp(-8, 7)
        error = (torch.addcmul(zero, numbers, step) - wanted).square().sum(2, keepdim=True)
        found = (error, numbers, torch.cat((step, zero), 2))
        better = error < (found if best is None else best)[0]
        best = tuple(torch.where(better, new, old) for new, old in zip(found, best or found, strict=True))
    assert best is not None
    pairs = best[1].flatten(1).to(torch.int8).view(len(weight), -1, 2)
    return (pairs[..., 0] << 4) | (pairs[..., 1] & 15), scale, best[2].bfloat16()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", VALUES)
def test_every_bit_is_that_of_the_plain_implementation(values: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        weight = VALUES[values](torch.randn(shape, generator=generator)).to(dtype)
        assert torch.isfinite(weight).all()
        numbers, scale = quantize_rows_plainly(weight, 127)
        assert all(map(torch.equal, quantize_rows(weight, 8), (numbers, scale)))
        qweight, row_scale, _ = quantize_weight(weight, 8)
        assert torch.equal(qweight, numbers)
        assert torch.equal(row_scale, scale.float().where(scale > 0, 1))
        assert all(map(torch.equal, quantize_rows(weight, 4), quantize_rows_plainly(weight, 7)))
        for actual, expected in zip(quantize_weight(weight, 4), quantize_groups_plainly(weight), strict=True):
            assert actual is not None
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_weight_itself_does_not_change(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_ops, "CPU_BLOCK_ELEMENTS", 3 * 256)
    weight = torch.randn(20, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = weight.detach().clone()
    quantize_weight(weight, bits)
    quantize_rows(weight, bits)
    assert torch.equal(weight, before)

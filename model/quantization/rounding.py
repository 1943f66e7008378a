"""Whole weights -> low-bit numbers with their scales, see `kernels.torch_ops` for what these mean."""

import math

import torch

from ..kernels.torch_ops import Rounded, check_bits, pack_pairs, quantize_rows

GROUP_SIZE = 128
LOWEST, HIGHEST = -8, 7
# Of a group's range: cutting off its extremes may bring the others closer. The best is chosen for each group.
SHARES = (1.0, 0.94, 0.88, 0.8)
# Elements rounded at once, so that a matrix of any size needs little beside itself.
AT_ONCE = 2**24


def group_count(columns: int) -> int:
    """Return G, the number of groups in a row: of 128 columns where that divides the row, else of fewer."""
    return columns // math.gcd(columns, GROUP_SIZE)


def round_weight(weight: torch.Tensor, bits: int) -> Rounded:
    """Return a weight [O, I] of any floating dtype in 8 or 4 bits, on its device.

    Raises:
        SettingError: weights cannot have so many bits.
    """
    check_bits(bits, weight.shape[1])
    rounder = round_rows if bits == 8 else round_groups
    height = max(1, AT_ONCE // weight.shape[1])
    parts = [rounder(part.detach().float()) for part in weight.split(height)]
    numbers, scale = torch.cat([part.numbers for part in parts]), torch.cat([part.scale for part in parts])
    groups = [part.groups for part in parts if part.groups is not None]
    return Rounded(numbers, scale, torch.cat(groups) if groups else None)


def usable(scale: torch.Tensor) -> torch.Tensor:
    """Return half-precision scales [O] in float32, without zeros: rows of zeros become zeros with any scale."""
    return scale.float().where(scale > 0, 1.0)


def round_rows(weight: torch.Tensor) -> Rounded:
    """Round float32 [O, I] to 8 bits with a scale a row."""
    numbers, scale = quantize_rows(weight, 8)
    return Rounded(numbers, usable(scale))


def round_groups(weight: torch.Tensor) -> Rounded:
    """Round float32 [O, I] to 4 bits with a step and a zero for each group, those of the least squared error."""
    scale = usable(weight.abs().amax(dim=1).half())
    wanted = (weight / scale[:, None]).view(len(weight), group_count(weight.shape[1]), -1)
    low, high = wanted.amin(-1, keepdim=True), wanted.amax(-1, keepdim=True)
    best, groups = wanted, torch.empty(0)
    least = torch.full_like(low, math.inf)
    for share in SHARES:
        step = as_stored((high - low) * (share / (HIGHEST - LOWEST))).clamp(min=2.0**-30)  # not zero
        zero = as_stored((high + low) / 2 + step / 2)  # the numbers' middle is -1/2
        numbers = ((wanted - zero) / step).round_().clamp_(LOWEST, HIGHEST)
        error = (torch.addcmul(zero, numbers, step) - wanted).square_().sum(-1, keepdim=True)
        pair, better = torch.cat((step, zero), -1), error < least
        best = torch.where(better, numbers, best)
        groups = torch.where(better, pair, groups) if groups.numel() else pair
        least = torch.minimum(error, least)
    return Rounded(pack_pairs(best.flatten(1).to(torch.int8)), scale, groups.to(torch.bfloat16))


def as_stored(values: torch.Tensor) -> torch.Tensor:
    """Return float32 values rounded to what bfloat16 has."""
    return values.bfloat16().float()

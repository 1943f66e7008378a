"""Compute the loss of answers from final states, a few tokens at a time, and the divergence from the base model.

The logits of all places would be the largest tensor of a training by far: in float32 half a megabyte a place at the
published size.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from model.sat.lora import LoraLinear, has_dropout
from model.visualglm import PARALLEL_LAYERS

# Places whose logits lie in memory at a time.
HEAD_ROWS = 256


def sum_losses(head: nn.Module, states: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the losses of states, in float32.

    Args:
        head: of the language model.
        states: [N, D].
        targets: [N], the tokens to say.
        counts: [N], what each counts.
    """
    if torch.is_grad_enabled() and is_plain(head):
        loss: torch.Tensor = LossOfFrozenHead.apply(states, targets, counts, head.weight)
        return loss
    return sum_parts(head, sum_of_part, HEAD_ROWS, states, targets, counts)


def sum_parts(
    head: nn.Module, function: Callable[..., torch.Tensor], rows: int, states: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:
    """Return the sum of a function of a head and states [N, D] with what belongs to them, of so many rows at a time."""
    total = torch.zeros((), device=states.device)
    number = count_parts(head, states, rows)
    for part in parts_of(number, rows, states, *others):
        if torch.is_grad_enabled() and number > 1:
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": has_dropout(head)}
            total = total + checkpoint(function, head, *part, **options)
        else:
            total = total + function(head, *part)
    return total


def is_plain(head: nn.Module) -> bool:
    """Whether a head is a matrix that is not trained, and that lies here as a whole."""
    weight: Any = head.weight if type(head) in PARALLEL_LAYERS else None
    return weight is not None and not weight.requires_grad and not hasattr(weight, "ds_id")


def count_parts(head: nn.Module, states: torch.Tensor, rows: int) -> int:
    """Return into how many parts of so many rows the states go.

    ZeRO 3 collects a head from all processes whenever it is called; so all call it as often as the one that has most to
    say, with nothing where they have said all.
    """
    number = max(1, math.ceil(len(states) / rows))
    if not any(hasattr(weight, "ds_id") for weight in head.parameters()):
        return number
    most = torch.tensor(number, device=states.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def parts_of(number: int, rows: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield so many parts of the tensors, each of so many rows as long as there are some."""
    for start in range(0, number * rows, rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


def sum_of_part(head: nn.Module, states: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the losses of a few states."""
    # In float32 as it is computed, and not before, so that there is no second copy of the logits.
    chances = F.log_softmax(head(states), dim=-1, dtype=torch.float32)
    return F.nll_loss(chances, targets, reduction="none") @ counts


class LossOfFrozenHead(torch.autograd.Function):
    """The same where only states want a gradient: it is made with the loss, so that no logits are made twice."""

    @staticmethod
    def forward(
        context: Any, states: torch.Tensor, targets: torch.Tensor, counts: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        total, gradients = torch.zeros((), device=states.device), torch.empty_like(states)
        number = math.ceil(len(states) / HEAD_ROWS)
        for gradient, part, wanted, count in parts_of(number, HEAD_ROWS, gradients, states, targets, counts):
            # In place, as there is no larger tensor in a training: softmax would need two of them.
            chances = F.linear(part, weight).float()
            most = chances.amax(1, keepdim=True)
            told = chances.gather(1, wanted[:, None]) - most
            sums = chances.sub_(most).exp_().sum(1, keepdim=True)
            total += (sums.log() - told)[:, 0] @ count
            chances.div_(sums).scatter_add_(1, wanted[:, None], torch.full_like(sums, -1.0))
            gradient.copy_(chances.mul_(count[:, None]).to(weight.dtype) @ weight)
        context.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(context: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = context.saved_tensors
        return gradients * given[0], None, None, None


# Places at a time: there are logits of both, and a copy.
DIVERGENCE_ROWS = HEAD_ROWS // 2


def sum_divergences(head: nn.Module, states: torch.Tensor, told: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the divergences of states, in float32.

    Args:
        head: of the language model.
        states: [N, D] of the network.
        told: [N, D], those of its base.
        counts: [N], what each counts.
    """
    if torch.is_grad_enabled() and is_plain(head):
        divergence: torch.Tensor = DivergenceOfFrozenHead.apply(states, told, counts, head.weight)
        return divergence
    return sum_parts(head, divergence_of_part, DIVERGENCE_ROWS, states, told, counts)


def divergence_of_part(head: nn.Module, states: torch.Tensor, told: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the divergences of a few states."""
    with torch.no_grad():
        base = head.original if isinstance(head, LoraLinear) else head
        expected = F.log_softmax(base(told), dim=-1, dtype=torch.float32)
    chances = F.log_softmax(head(states), dim=-1, dtype=torch.float32)
    return F.kl_div(chances, expected, reduction="none", log_target=True).sum(1) @ counts


class DivergenceOfFrozenHead(torch.autograd.Function):
    """The same where only states want a gradient: it is made with the sum, so that no logits are made twice."""

    @staticmethod
    def forward(
        context: Any, states: torch.Tensor, told: torch.Tensor, counts: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        total, gradients = torch.zeros((), device=states.device), torch.empty_like(states)
        number = math.ceil(len(states) / DIVERGENCE_ROWS)
        for gradient, part, expected, count in parts_of(number, DIVERGENCE_ROWS, gradients, states, told, counts):
            chances = F.log_softmax(F.linear(part, weight), dim=-1, dtype=torch.float32)
            wanted = F.log_softmax(F.linear(expected, weight), dim=-1, dtype=torch.float32)
            shares = wanted.exp()
            total += wanted.sub_(chances).mul_(shares).sum(1) @ count
            gradient.copy_(chances.exp_().sub_(shares).mul_(count[:, None]).to(weight.dtype) @ weight)
        context.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(context: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = context.saved_tensors
        return gradients * given[0], None, None, None

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
LOGITS_CHUNK = 256


def sum_cross_entropy(
    head: nn.Module, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the losses of states, in float32.

    Args:
        head: of the language model.
        states: [N, D].
        targets: [N], the tokens to say.
        counts: [N], what each counts.
    """
    if torch.is_grad_enabled() and is_frozen_matrix(head):
        loss: torch.Tensor = ChunkedLinearCrossEntropy.apply(states, targets, weights, head.weight)
        return loss
    return sum_chunks(head, chunk_cross_entropy, LOGITS_CHUNK, states, targets, weights)


def sum_chunks(
    head: nn.Module, function: Callable[..., torch.Tensor], rows: int, states: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:
    """Return the sum of a function of a head and states [N, D] with what belongs to them, of so many rows at a time."""
    total = torch.zeros((), device=states.device)
    number = count_chunks(head, states, rows)
    for chunk in split_chunks(number, rows, states, *others):
        if torch.is_grad_enabled() and number > 1:
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": has_dropout(head)}
            total = total + checkpoint(function, head, *chunk, **options)
        else:
            total = total + function(head, *chunk)
    return total


def is_frozen_matrix(head: nn.Module) -> bool:
    """Whether a head is a matrix that is not trained, and that lies here as a whole."""
    weight: Any = head.weight if type(head) in PARALLEL_LAYERS else None
    return weight is not None and not weight.requires_grad and not hasattr(weight, "ds_id")


def count_chunks(head: nn.Module, states: torch.Tensor, rows: int) -> int:
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


def split_chunks(number: int, rows: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield so many parts of the tensors, each of so many rows as long as there are some."""
    for start in range(0, number * rows, rows):
        yield tuple(tensor[start : start + rows] for tensor in tensors)


def chunk_cross_entropy(
    head: nn.Module, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the losses of a few states."""
    # In float32 as it is computed, and not before, so that there is no second copy of the logits.
    chances = F.log_softmax(head(states), dim=-1, dtype=torch.float32)
    return F.nll_loss(chances, targets, reduction="none") @ weights


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """The same where only states want a gradient: it is made with the loss, so that no logits are made twice."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        total, gradients = torch.zeros((), device=states.device), torch.empty_like(states)
        number = math.ceil(len(states) / LOGITS_CHUNK)
        for gradient, chunk, wanted, weight_chunk in split_chunks(
            number, LOGITS_CHUNK, gradients, states, targets, weights
        ):
            # In place, as there is no larger tensor in a training: softmax would need two of them.
            chances = F.linear(chunk, weight).float()
            most = chances.amax(1, keepdim=True)
            teacher = chances.gather(1, wanted[:, None]) - most
            sums = chances.sub_(most).exp_().sum(1, keepdim=True)
            total += (sums.log() - teacher)[:, 0] @ weight_chunk
            chances.div_(sums).scatter_add_(1, wanted[:, None], torch.full_like(sums, -1.0))
            gradient.copy_(chances.mul_(weight_chunk[:, None]).to(weight.dtype) @ weight)
        ctx.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return gradients * given[0], None, None, None


# Places at a time: there are logits of both, and a copy.
KL_CHUNK = LOGITS_CHUNK // 2


def sum_kl_divergence(
    head: nn.Module, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the divergences of states, in float32.

    Args:
        head: of the language model.
        states: [N, D] of the network.
        told: [N, D], those of its base.
        counts: [N], what each counts.
    """
    if torch.is_grad_enabled() and is_frozen_matrix(head):
        divergence: torch.Tensor = ChunkedLinearKLDivergence.apply(states, teacher, weights, head.weight)
        return divergence
    return sum_chunks(head, chunk_kl_divergence, KL_CHUNK, states, teacher, weights)


def chunk_kl_divergence(
    head: nn.Module, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the divergences of a few states."""
    with torch.no_grad():
        base = head.original if isinstance(head, LoraLinear) else head
        expected = F.log_softmax(base(teacher), dim=-1, dtype=torch.float32)
    chances = F.log_softmax(head(states), dim=-1, dtype=torch.float32)
    return F.kl_div(chances, expected, reduction="none", log_target=True).sum(1) @ weights


class ChunkedLinearKLDivergence(torch.autograd.Function):
    """The same where only states want a gradient: it is made with the sum, so that no logits are made twice."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        total, gradients = torch.zeros((), device=states.device), torch.empty_like(states)
        number = math.ceil(len(states) / KL_CHUNK)
        for gradient, chunk, expected, weight_chunk in split_chunks(
            number, KL_CHUNK, gradients, states, teacher, weights
        ):
            chances = F.log_softmax(F.linear(chunk, weight), dim=-1, dtype=torch.float32)
            wanted = F.log_softmax(F.linear(expected, weight), dim=-1, dtype=torch.float32)
            shares = wanted.exp()
            total += wanted.sub_(chances).mul_(shares).sum(1) @ weight_chunk
            gradient.copy_(chances.exp_().sub_(shares).mul_(weight_chunk[:, None]).to(weight.dtype) @ weight)
        ctx.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return gradients * given[0], None, None, None

"""Compute cross-entropy and KL divergence from final hidden states, in chunks of a few tokens.

The logits of all positions at once would be by far the largest tensor of the training: at the published size each
position takes half a megabyte in float32.
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

LOGITS_CHUNK = 256  # tokens whose logits are in memory at a time
KL_CHUNK = LOGITS_CHUNK // 2  # there are the logits of student and teacher, and a copy


def sum_cross_entropy(
    head: nn.Module, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the cross-entropy losses, in float32.

    Args:
        head: the language model's head.
        states: final hidden states [N, D].
        targets: target token ids [N].
        weights: loss weights [N].
    """
    if torch.is_grad_enabled() and is_frozen_matrix(head):
        loss: torch.Tensor = ChunkedLinearCrossEntropy.apply(states, targets, weights, head.weight)
        return loss
    return sum_chunks(head, chunk_cross_entropy, LOGITS_CHUNK, states, targets, weights)


def sum_kl_divergence(
    head: nn.Module, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the divergences KL(teacher || student) of the token distributions, in float32.

    Args:
        head: the language model's head.
        states: final hidden states [N, D] of the trained network.
        teacher: final hidden states [N, D] of the base model.
        weights: loss weights [N].
    """
    if torch.is_grad_enabled() and is_frozen_matrix(head):
        divergence: torch.Tensor = ChunkedLinearKLDivergence.apply(states, teacher, weights, head.weight)
        return divergence
    return sum_chunks(head, chunk_kl_divergence, KL_CHUNK, states, teacher, weights)


def is_frozen_matrix(head: nn.Module) -> bool:
    """Return whether a head is a single weight matrix that is neither trained nor sharded by ZeRO 3."""
    weight: Any = head.weight if type(head) in PARALLEL_LAYERS else None
    return weight is not None and not weight.requires_grad and not hasattr(weight, "ds_id")


def sum_chunks(
    head: nn.Module, function: Callable[..., torch.Tensor], size: int, states: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:
    """Return the sum of `function(head, chunk of states, chunk of each other tensor)` over chunks of `size` tokens.

    If there are several, each chunk is recomputed in the backward pass.
    """
    total = torch.zeros((), device=states.device)
    count = count_chunks(head, states, size)
    for chunk in split_chunks(count, size, states, *others):
        if torch.is_grad_enabled() and count > 1:
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": has_dropout(head)}
            total = total + checkpoint(function, head, *chunk, **options)
        else:
            total = total + function(head, *chunk)
    return total


def count_chunks(head: nn.Module, states: torch.Tensor, size: int) -> int:
    """Return the number of chunks of `size` tokens.

    With ZeRO 3 it is the maximum over all ranks: each call of the head gathers its weights from all of them, so every
    rank has to make the same number of calls, the last ones with empty chunks.
    """
    count = max(1, math.ceil(len(states) / size))
    if not any(hasattr(weight, "ds_id") for weight in head.parameters()):
        return count
    maximum = torch.tensor(count, device=states.device)
    dist.all_reduce(maximum, dist.ReduceOp.MAX)
    return int(maximum)


def split_chunks(count: int, size: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield `count` chunks of the tensors, each of `size` rows; the last ones may be shorter or empty."""
    for start in range(0, count * size, size):
        yield tuple(tensor[start : start + size] for tensor in tensors)


def chunk_cross_entropy(
    head: nn.Module, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the cross-entropy losses of one chunk."""
    # log_softmax converts to float32 while it computes, so that there is no float32 copy of the logits.
    log_probs = F.log_softmax(head(states), dim=-1, dtype=torch.float32)
    return F.nll_loss(log_probs, targets, reduction="none") @ weights


def chunk_kl_divergence(
    head: nn.Module, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of the KL divergences of one chunk."""
    with torch.no_grad():
        base_head = head.original if isinstance(head, LoraLinear) else head
        teacher_log_probs = F.log_softmax(base_head(teacher), dim=-1, dtype=torch.float32)
    log_probs = F.log_softmax(head(states), dim=-1, dtype=torch.float32)
    return F.kl_div(log_probs, teacher_log_probs, reduction="none", log_target=True).sum(1) @ weights


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """`sum_cross_entropy` for a frozen head matrix, whose forward pass also computes the gradient of the states.

    So the logits are not recomputed in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, matrix: torch.Tensor
    ) -> torch.Tensor:
        total, gradients = torch.zeros((), device=states.device), torch.empty_like(states)
        count = math.ceil(len(states) / LOGITS_CHUNK)
        for gradient, state, target, weight in split_chunks(count, LOGITS_CHUNK, gradients, states, targets, weights):
            # In place, as this is the largest tensor of the training; softmax would need two of them.
            logits = F.linear(state, matrix).float()
            maximum = logits.amax(1, keepdim=True)
            target_logits = logits.gather(1, target[:, None]) - maximum
            exponentials = logits.sub_(maximum).exp_()
            sums = exponentials.sum(1, keepdim=True)
            total += (sums.log() - target_logits)[:, 0] @ weight
            # d loss / d logits = softmax - one_hot(target)
            logits_gradient = exponentials.div_(sums).scatter_add_(1, target[:, None], torch.full_like(sums, -1.0))
            gradient.copy_(logits_gradient.mul_(weight[:, None]).to(matrix.dtype) @ matrix)
        ctx.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *output_gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return gradients * output_gradients[0], None, None, None


class ChunkedLinearKLDivergence(torch.autograd.Function):
    """`sum_kl_divergence` for a frozen head matrix, whose forward pass also computes the gradient of the states.

    So the logits are not recomputed in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, matrix: torch.Tensor
    ) -> torch.Tensor:
        total, gradients = torch.zeros((), device=states.device), torch.empty_like(states)
        count = math.ceil(len(states) / KL_CHUNK)
        for gradient, state, target, weight in split_chunks(count, KL_CHUNK, gradients, states, teacher, weights):
            log_probs = F.log_softmax(F.linear(state, matrix), dim=-1, dtype=torch.float32)
            teacher_log_probs = F.log_softmax(F.linear(target, matrix), dim=-1, dtype=torch.float32)
            teacher_probs = teacher_log_probs.exp()
            total += teacher_log_probs.sub_(log_probs).mul_(teacher_probs).sum(1) @ weight
            # d loss / d logits = student probabilities - teacher probabilities
            logits_gradient = log_probs.exp_().sub_(teacher_probs)
            gradient.copy_(logits_gradient.mul_(weight[:, None]).to(matrix.dtype) @ matrix)
        ctx.save_for_backward(gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *output_gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return gradients * output_gradients[0], None, None, None

"""How far the chances that a network gives each token are from those that its base gives it, a few places at a time.

KL(base || network) = sum_v base_v (log base_v - log network_v)          its gradient by the logits: network - base
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model.sat.lora import LoraLinear

from .head import HEAD_ROWS, is_plain, parts_of, sum_parts

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
        return DivergenceOfFrozenHead.apply(states, told, counts, head.weight)  # type: ignore[no-any-return]
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

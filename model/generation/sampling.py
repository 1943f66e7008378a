"""Logits -> a distribution -> a token, for every row of a batch with settings of its own."""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from .config import GenerationConfig, IdRange

NEVER = float("-inf")


class Shape(NamedTuple):
    """How each row's distribution is shaped.

    Attributes:
        temperature, top_p: float32 [B].
        top_k: int64 [B]; 0 for all tokens.
        width: candidates to look at: the largest top_k, or the whole vocabulary where a row has 0.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    width: int


def shape_of(config: GenerationConfig, vocabulary: int) -> Shape:
    """Return the shape of a single row of sampled answers."""
    rows = (torch.tensor([value]) for value in (float(config.temperature), config.top_k, float(config.top_p)))
    temperature, top_k, top_p = rows
    return Shape(temperature, top_k, top_p, min(config.top_k or vocabulary, vocabulary))


def ban(mask: torch.Tensor, ranges: Iterable[IdRange]) -> None:
    """Mark the ids of half-open `ranges` in a row [V] of booleans."""
    for start, stop in ranges:
        mask[start:stop] = True


def penalize(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Lower the logits [B, V] of the ids that are marked in `seen` [B, V], by `penalty` [B, 1].

    A positive logit is divided and a negative one multiplied, so that either falls.
    Paper: CTRL, https://arxiv.org/abs/1909.05858.
    """
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def candidates(logits: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (probabilities [B, W], token ids [B, W]), most likely first.

    Temperature, then the `top_k` most likely tokens, then the fewest of these whose probabilities sum up to
    more than `top_p` (nucleus sampling, https://arxiv.org/abs/1904.09751); each works without the others.
    """
    values, ids = torch.topk(logits.float() / shape.temperature[:, None], shape.width, dim=-1)
    rank = torch.arange(shape.width, device=logits.device)
    outside = (rank >= shape.top_k[:, None]) & (shape.top_k[:, None] > 0)
    probabilities = values.masked_fill(outside, NEVER).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    outside = outside | (before > shape.top_p[:, None]) & (rank > 0) & (shape.top_p[:, None] < 1)
    return values.masked_fill(outside, NEVER).softmax(-1), ids


def distribution(logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Return the probabilities [B, V] with which each token would be sampled."""
    probabilities, ids = candidates(logits, shape_of(config, logits.shape[-1]))
    return torch.zeros_like(logits, dtype=torch.float).scatter(-1, ids, probabilities)


def draw(probabilities: torch.Tensor, ids: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the token [B] at which the cumulative probabilities [B, W] pass `uniform` [B], numbers from 0 to 1."""
    reached = probabilities.cumsum(-1)
    place = (reached < uniform[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(-1, place).squeeze(-1)

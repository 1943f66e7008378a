"""Logits -> a distribution -> a token, for every row of a batch with settings of its own."""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from .config import GenerationConfig, IdRange

NEVER = float("-inf")


class Shape(NamedTuple):
    """How each row's distribution is shaped.

    Attributes:
        temperature: float32 [B].
        top_k, top_p: int64 and float32 [B], as of `limits`.
        width: candidates to look at: the largest top_k, or the whole vocabulary where that is less.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    width: int


def limits(config: GenerationConfig, vocabulary: int) -> tuple[int, float]:
    """Return top_k and top_p as numbers to compare with, also where they limit nothing."""
    return config.top_k or vocabulary, float(config.top_p) if config.top_p < 1 else float("inf")


def shape_of(config: GenerationConfig, vocabulary: int) -> Shape:
    """Return the shape of a single row of sampled answers."""
    top_k, top_p = limits(config, vocabulary)
    temperature = torch.tensor([float(config.temperature)])
    return Shape(temperature, torch.tensor([top_k]), torch.tensor([top_p]), min(top_k, vocabulary))


def ban(mask: torch.Tensor, ranges: Iterable[IdRange]) -> None:
    """Mark the ids of half-open `ranges` in booleans [..., V]."""
    for start, stop in ranges:
        mask[..., start:stop] = True


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
    values = values.masked_fill(rank >= shape.top_k[:, None], NEVER)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # of the first, 0
    return values.masked_fill(before > shape.top_p[:, None], NEVER).softmax(-1), ids


def distribution(logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Return the probabilities [B, V] with which each token would be sampled."""
    probabilities, ids = candidates(logits, shape_of(config, logits.shape[-1]))
    return torch.zeros_like(logits, dtype=torch.float).scatter(-1, ids, probabilities)


def draw(probabilities: torch.Tensor, ids: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the token [B] at which the cumulative probabilities [B, W] pass `uniform` [B], numbers from 0 to 1."""
    reached = probabilities.cumsum(-1)
    place = (reached < uniform[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(-1, place).squeeze(-1)

"""Logits -> a distribution -> a token."""

from collections.abc import Iterable

import torch

from ..errors import GenerationError
from .config import GenerationConfig, IdRange

NEVER = float("-inf")


def forbid(logits: torch.Tensor, ranges: Iterable[IdRange]) -> torch.Tensor:
    """Return logits [..., V] in which the ids of half-open `ranges` are impossible."""
    ranges = tuple(ranges)
    logits = logits.clone() if ranges else logits
    for start, stop in ranges:
        logits[..., start:stop] = NEVER
    return logits


def penalize(logits: torch.Tensor, answer_ids: torch.Tensor, penalty: float) -> torch.Tensor:
    """Lower the logits [B, V] of the ids [B, N] that the answer already has.

    A positive logit is divided by `penalty` and a negative one multiplied, so that either falls.
    Paper: CTRL, https://arxiv.org/abs/1909.05858.
    """
    if penalty == 1.0 or answer_ids.shape[-1] == 0:
        return logits
    seen = logits.gather(-1, answer_ids)
    lowered = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits.scatter(-1, answer_ids, lowered)


def candidates(logits: torch.Tensor, config: GenerationConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (probabilities [B, K], token ids [B, K]), most likely first.

    Temperature, then the `top_k` most likely tokens, then the fewest of these whose probabilities sum up to
    more than `top_p` (nucleus sampling, https://arxiv.org/abs/1904.09751); each works without the others.
    """
    vocabulary = logits.shape[-1]
    count = min(config.top_k or vocabulary, vocabulary)
    values, ids = torch.topk(logits.float() / config.temperature, count, dim=-1)
    probabilities = values.softmax(-1)
    if config.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        outside = before > config.top_p
        outside[..., 0] = False
        probabilities = values.masked_fill(outside, NEVER).softmax(-1)
    return probabilities, ids


def distribution(logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Return the probabilities [B, V] with which each token would be sampled."""
    probabilities, ids = candidates(logits, config)
    return torch.zeros_like(logits, dtype=torch.float).scatter(-1, ids, probabilities)


def sample(logits: torch.Tensor, config: GenerationConfig, generator: torch.Generator | None) -> torch.Tensor:
    """Draw one token id for each row of logits [B, V]; return [B, 1].

    Raises:
        GenerationError: the logits hold NaN.
    """
    if torch.isnan(logits).any():
        raise GenerationError(
            "The model's logits are not numbers (NaN). In float16 that is usually an overflow: "
            "try bfloat16 or float32, and check that the weights loaded are complete."
        )
    if config.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    probabilities, ids = candidates(logits, config)
    return ids.gather(-1, torch.multinomial(probabilities, 1, generator=generator))

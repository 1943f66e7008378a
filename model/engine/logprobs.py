"""Compute the log-probabilities of sampled tokens and of the most likely tokens, for requests that ask for them."""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from .config import MAX_TOP_LOGPROBS, GenerationConfig

# The number of most likely tokens is padded to these, so that few CUDA graphs cover all requests.
TOP_BUCKETS = (0, 5, MAX_TOP_LOGPROBS)


class TokenLogprobs(NamedTuple):
    """The log-probability of a token, natural logarithm, in the softmax of the model's unprocessed logits.

    Temperature, top-k, top-p, penalties and forbidden tokens do not change it.

    Attributes:
        logprob: of the token.
        top: ids and log-probabilities of the most likely tokens, the most likely first; as many as were asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def top_bucket(configs: Iterable[GenerationConfig]) -> int | None:
    """Return the number of most likely tokens to compute for a batch, padded; None if no sequence wants any."""
    wanted = [config.top_logprobs for config in configs if config.top_logprobs is not None]
    return next(bucket for bucket in TOP_BUCKETS if bucket >= max(wanted)) if wanted else None


class LogprobBuffers:
    """The log-probabilities of the last token of each slot, on the device: a captured decode step writes them.

    Args:
        slots: number of slots.
        device: device of the logits.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self.chosen = torch.zeros(slots, device=device)
        self.values = torch.zeros(slots, MAX_TOP_LOGPROBS, device=device)
        self.ids = torch.zeros(slots, MAX_TOP_LOGPROBS, dtype=torch.long, device=device)

    def write(self, logits: torch.Tensor, tokens: torch.Tensor, first: int, num_top: int) -> None:
        """Compute the log-probabilities of the tokens of the slots from `first` on.

        Args:
            logits: [B, V] in any dtype; not modified.
            tokens: int64 [B]; negative ones stand for logits that contain NaN.
            first: slot of the first token.
            num_top: number of most likely tokens.
        """
        slots = slice(first, first + len(logits))
        logits = logits.float()
        total = logits.logsumexp(-1, keepdim=True)
        self.chosen[slots] = (logits.gather(1, tokens.clamp(min=0)[:, None]) - total).squeeze(1)
        if num_top:
            values, ids = logits.topk(num_top)
            self.values[slots, :num_top] = values - total
            self.ids[slots, :num_top] = ids

    def parts(self, first: int, count: int, num_top: int) -> tuple[torch.Tensor, ...]:
        """Return views of what `write` has written for `count` slots, for `to_logprobs`."""
        slots = slice(first, first + count)
        return self.chosen[slots], self.values[slots, :num_top], self.ids[slots, :num_top]


def to_logprobs(parts: tuple[torch.Tensor, ...]) -> list[TokenLogprobs]:
    """Convert the parts of `LogprobBuffers`, on the CPU, to one TokenLogprobs per slot."""
    chosen, values, ids = (part.tolist() for part in parts)
    return [
        TokenLogprobs(logprob, tuple(zip(top_ids, top, strict=True)))
        for logprob, top, top_ids in zip(chosen, values, ids, strict=True)
    ]

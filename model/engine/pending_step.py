"""A launched decode step, whose results are copied from the device while the next step runs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .sequence import RunningSequence


@dataclass
class PendingStep:
    """A launched decode step whose tokens are being copied from the device.

    Attributes:
        sequences: the sequences of the step, in the order of `tokens`.
        tokens: int64 [B], valid after `wait`.
        logprobs: their log-probabilities, see `LogprobBuffers.parts`, valid after `wait`; empty if nobody wants any.
        wait: blocks until the copy is complete.
    """

    sequences: list[RunningSequence]
    tokens: torch.Tensor
    logprobs: tuple[torch.Tensor, ...] = ()
    wait: Callable[[], object] = field(default=lambda: None)


def copy_results(sequences: list[RunningSequence], tokens: torch.Tensor, *logprobs: torch.Tensor) -> PendingStep:
    """Start the copy of the results of a step to the CPU; results that are there already are not copied.

    Args:
        sequences: the sequences of the step.
        tokens: int64 [B].
        logprobs: see `LogprobBuffers.parts`.
    """
    if tokens.device.type != "cuda":
        return PendingStep(sequences, tokens, logprobs)
    copied, *parts = map(copy_to_pinned, (tokens, *logprobs))
    event = torch.cuda.Event()
    event.record()
    return PendingStep(sequences, copied, tuple(parts), event.synchronize)


def copy_to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Start the copy of a GPU's tensor to pinned memory; return that."""
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)

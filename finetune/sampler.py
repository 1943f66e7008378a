"""Choose the examples of each step, as a function of seed and step only, so that trainings can be resumed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

LENGTH_WINDOW = 50  # steps whose examples are sorted by length together


@dataclass(frozen=True)
class ResumableBatchSampler:
    """Draws the batches of each step.

    Each epoch has a random order of its own. A step may contain the end of one epoch and the beginning of the next.

    Attributes:
        num_examples: number of examples.
        batch_size: examples per batch of one process.
        batches_per_step: batches per step of one process.
        world_size: number of processes that share the examples of a step.
        rank: rank of this process.
        seed: random seed.
        lengths: length of each example, to batch examples of similar length; None for random batches.
    """

    num_examples: int
    batch_size: int
    batches_per_step: int = 1
    world_size: int = 1
    rank: int = 0
    seed: int = 0
    lengths: Sequence[int] | None = None

    @property
    def step_size(self) -> int:
        """Number of examples per step, over all processes."""
        return self.batch_size * self.batches_per_step * self.world_size

    def steps(self, epochs: int) -> int:
        """Return the number of steps that `epochs` epochs take, rounded up."""
        return math.ceil(epochs * self.num_examples / self.step_size)

    def batches_from(self, step: int) -> Iterator[list[int]]:
        """Yield this process's batches (indices of examples) endlessly, starting at `step`."""
        epoch, offset = divmod(step * self.step_size, self.num_examples)
        waiting = self.epoch(epoch)[offset:]
        while True:
            while len(waiting) < self.step_size:
                epoch += 1
                waiting += self.epoch(epoch)
            taken, waiting = waiting[: self.step_size], waiting[self.step_size :]
            for batch in range(self.batches_per_step):
                start = (batch * self.world_size + self.rank) * self.batch_size
                yield taken[start : start + self.batch_size]

    def epoch(self, number: int) -> list[int]:
        """Return the indices of all examples in the order of one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        shuffled = torch.randperm(self.num_examples, generator=generator).tolist()
        return shuffled if self.lengths is None else self._by_length(shuffled, generator)

    def _by_length(self, shuffled: list[int], generator: torch.Generator) -> list[int]:
        """Sort the examples of each window by length, form batches, and shuffle the batches of the window."""
        window, lengths = LENGTH_WINDOW * self.step_size, self.lengths or ()
        ordered: list[int] = []
        for start in range(0, len(shuffled), window):
            sorted_window = sorted(shuffled[start : start + window], key=lambda index: lengths[index])
            groups = [
                sorted_window[first : first + self.batch_size]
                for first in range(0, len(sorted_window), self.batch_size)
            ]
            for group in torch.randperm(len(groups), generator=generator).tolist():
                ordered += groups[group]
        return ordered

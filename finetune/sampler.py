"""Which examples each step sees: a function of seed and step alone, so that training can go on anywhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

# Steps of examples among which those of like length are put together.
LENGTH_WINDOW = 50


@dataclass(frozen=True)
class ResumableBatchSampler:
    """The order of the examples.

    They come in an order drawn anew for each epoch; a step takes the next ones, across the ends of epochs.

    Attributes:
        count: examples there are.
        batch_size: of one process.
        batches: of one process in a step.
        processes, rank: how many share a step's examples, and which one this is.
        seed: of the order.
        sizes: of each example its length, to put those of like length together; None for not.
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
        """Examples of one step, over all processes."""
        return self.batch_size * self.batches_per_step * self.world_size

    def steps(self, epochs: int) -> int:
        """Return how many steps see every example `epochs` times."""
        return math.ceil(epochs * self.num_examples / self.step_size)

    def batches_from(self, step: int) -> Iterator[list[int]]:
        """Yield this process's batches, without end, from those of `step` on."""
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
        """Return the order of one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        drawn = torch.randperm(self.num_examples, generator=generator).tolist()
        return drawn if self.lengths is None else self._by_length(drawn, generator)

    def _by_length(self, drawn: list[int], generator: torch.Generator) -> list[int]:
        """Put examples of like length side by side, within windows, and their groups in a drawn order."""
        window, lengths = LENGTH_WINDOW * self.step_size, self.lengths or ()
        ordered: list[int] = []
        for start in range(0, len(drawn), window):
            part = sorted(drawn[start : start + window], key=lambda index: lengths[index])
            groups = [part[first : first + self.batch_size] for first in range(0, len(part), self.batch_size)]
            for group in torch.randperm(len(groups), generator=generator).tolist():
                ordered += groups[group]
        return ordered

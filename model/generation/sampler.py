"""The settings and the past of every row of a batch, and the next token of each."""

from collections.abc import Sequence

import torch

from .config import GenerationConfig, IdRange
from .sampling import NEVER, Shape, ban, candidates, draw, penalize

BROKEN = -1  # stands for a token where the logits are not numbers


class Sampler:
    """Draws a token for each row, all on the device.

    A row's random numbers are drawn when it begins, from its own seed, so that its tokens do not depend on who else is
    in the batch.

    Args:
        rows: the most rows.
        vocabulary: V, the number of logits.
        longest: the most tokens of an answer.
        end_id: the token that ends an answer.
        device: where the logits are.
    """

    def __init__(self, rows: int, vocabulary: int, longest: int, end_id: int, device: torch.device) -> None:
        self.vocabulary = vocabulary
        self.end_id = end_id
        self.configs: list[GenerationConfig] = [GenerationConfig(temperature=0)] * rows
        self.shortest = [0] * rows  # tokens before which an answer may not end
        self.drawn = [0] * rows
        self.banned = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.seen = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(rows, longest, device=device)
        self.temperature = torch.ones(rows, device=device)
        self.top_k = torch.zeros(rows, dtype=torch.long, device=device)
        self.top_p = torch.ones(rows, device=device)
        self.penalty = torch.ones(rows, 1, device=device)

    def begin(
        self, row: int, config: GenerationConfig, forbidden: Sequence[IdRange], prompt_length: int, budget: int
    ) -> None:
        """Prepare a row for an answer of up to `budget` tokens."""
        generator = None if config.seed is None else torch.Generator().manual_seed(config.seed)
        self.configs[row] = config
        self.shortest[row] = config.min_length - prompt_length
        self.drawn[row] = 0
        self.banned[row] = False
        ban(self.banned[row], forbidden)
        self.seen[row] = False
        if config.temperature:
            self.uniform[row, :budget] = torch.rand(budget, generator=generator)
        self.temperature[row] = config.temperature or 1.0
        self.top_k[row] = config.top_k
        self.top_p[row] = config.top_p
        self.penalty[row] = config.repetition_penalty

    def move(self, source: int, target: int) -> None:
        """Let row `target` go on where row `source` is."""
        self.configs[target] = self.configs[source]
        self.shortest[target] = self.shortest[source]
        self.drawn[target] = self.drawn[source]
        for tensor in (self.banned, self.seen, self.uniform, self.temperature, self.top_k, self.top_p, self.penalty):
            tensor[target] = tensor[source]

    def sample(self, logits: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Return the next token [B] of the rows from `first` on, from logits [B, V]; BROKEN where these hold NaN."""
        rows = slice(first, first + len(logits))
        broken = logits.isnan().any(-1)
        logits = self._restrict(logits.masked_fill(self.banned[rows], NEVER), rows)
        tokens = logits.argmax(-1)
        sampled = [bool(config.temperature) for config in self.configs[rows]]
        if any(sampled):
            probabilities, ids = candidates(logits, self._shape(rows))
            uniform = torch.stack([self.uniform[row, self.drawn[row]] for row in range(rows.start, rows.stop)])
            drawn = draw(probabilities, ids, uniform)
            tokens = drawn if all(sampled) else torch.where(self._flags(sampled), drawn, tokens)
        self.seen[rows].scatter_(1, tokens[:, None], True)
        for row in range(rows.start, rows.stop):
            self.drawn[row] += 1
        return tokens.masked_fill(broken, BROKEN)

    def _restrict(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Forbid an early end, and lower what the answers already have."""
        early = [drawn < least for drawn, least in zip(self.drawn[rows], self.shortest[rows], strict=True)]
        if any(early):
            logits[self._flags(early), self.end_id] = NEVER
        if any(config.repetition_penalty != 1 for config in self.configs[rows]):
            logits = penalize(logits, self.seen[rows], self.penalty[rows])
        return logits

    def _shape(self, rows: slice) -> Shape:
        widths = [config.top_k or self.vocabulary for config in self.configs[rows] if config.temperature]
        width = min(max(widths), self.vocabulary)
        return Shape(self.temperature[rows], self.top_k[rows], self.top_p[rows], width)

    def _flags(self, values: Sequence[bool]) -> torch.Tensor:
        return torch.tensor(values, device=self.banned.device)

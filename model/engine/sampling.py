"""Sample the next token of every row of a batch, each with settings and a past of its own."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from ..kernels.dispatch import has_triton
from .config import GenerationConfig, IdRange
from .network import to_device
from .sequence import Request

NEG_INF = float("-inf")


class SamplingTensors(NamedTuple):
    """How each row's distribution is shaped.

    Attributes:
        temperature: float32 [B].
        top_k, top_p: int64 and float32 [B], as of `effective_limits`.
        width: candidates to look at: the largest top_k, or the whole vocabulary where that is less.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    width: int


def effective_limits(config: GenerationConfig, vocab_size: int) -> tuple[int, float]:
    """Return top_k and top_p as numbers to compare with, also where they limit nothing."""
    return config.top_k or vocab_size, float(config.top_p) if config.top_p < 1 else float("inf")


def sampling_tensors(config: GenerationConfig, vocab_size: int) -> SamplingTensors:
    """Return the shape of a single row of sampled answers."""
    top_k, top_p = effective_limits(config, vocab_size)
    temperature = torch.tensor([float(config.temperature)])
    return SamplingTensors(temperature, torch.tensor([top_k]), torch.tensor([top_p]), min(top_k, vocab_size))


def mark_ranges(mask: torch.Tensor, ranges: Iterable[IdRange]) -> None:
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


def candidates(logits: torch.Tensor, shape: SamplingTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (probabilities [B, W], token ids [B, W]), most likely first.

    Temperature, then the `top_k` most likely tokens, then the fewest of these whose probabilities sum up to
    more than `top_p` (nucleus sampling, https://arxiv.org/abs/1904.09751); each works without the others.
    """
    values, ids = torch.topk(logits.float() / shape.temperature[:, None], shape.width, dim=-1)
    rank = torch.arange(shape.width, device=logits.device)
    values = values.masked_fill(rank >= shape.top_k[:, None], NEG_INF)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # of the first, 0
    return values.masked_fill(before > shape.top_p[:, None], NEG_INF).softmax(-1), ids


def sample_inverse_cdf(probabilities: torch.Tensor, ids: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the token [B] at which the cumulative probabilities [B, W] pass `uniform` [B], numbers from 0 to 1."""
    reached = probabilities.cumsum(-1)
    place = (reached < uniform[:, None] * reached[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(-1, place).squeeze(-1)


NAN_TOKEN = -1  # stands for a token where the logits are not numbers
# Candidates are looked at in so many at a time, so that few settings need a graph of their own. A kernel holds those of
# a row all at once: of more, such as a whole vocabulary, its compilation does not come to an end.
CANDIDATE_BUCKETS = (128, 1024)


class SamplingPlan(NamedTuple):
    """What has to be computed for some rows; a graph holds for one plan.

    Attributes:
        width: candidates to look at; 0 where every row takes the most likely token.
        greedy: whether a row takes the most likely token.
        early: whether a row may not end yet.
        penalized: whether a row has a repetition penalty.
    """

    width: int
    greedy: bool
    early: bool
    penalized: bool


class Sampler:
    """Draws a token for each row, all on the device.

    A row's random numbers are drawn when it begins, from its own seed, so that its tokens do not depend on who else is
    in the batch. Methods with rows of `Request` take those that have the first rows, or those from `first` on.

    Args:
        rows: the most rows.
        vocabulary: V, the number of logits.
        longest: the most tokens of an answer.
        end_id: the token that ends an answer.
        device: where the logits are.
    """

    def __init__(self, rows: int, vocab_size: int, longest: int, eos_token_id: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.eos_token_id = eos_token_id
        self.has_kernels = has_triton(device)
        self.drawn = torch.zeros(rows, dtype=torch.long, device=device)
        self.shortest = torch.zeros(rows, dtype=torch.long, device=device)  # tokens before which none may end
        self.banned = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
        self.seen = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(rows, longest, device=device)
        self.sampled = torch.zeros(rows, dtype=torch.bool, device=device)
        self.temperature = torch.ones(rows, device=device)
        self.top_k = torch.zeros(rows, dtype=torch.long, device=device)
        self.top_p = torch.ones(rows, device=device)
        self.penalty = torch.ones(rows, 1, device=device)

    def grown(self, rows: int, longest: int) -> "Sampler":
        """Return a sampler for more rows and longer answers, with what this one has."""
        larger = Sampler(rows, self.vocab_size, longest, self.eos_token_id, self.drawn.device)
        for name, tensor in self._tensors():
            part = vars(larger)[name][: len(tensor)]
            (part if tensor.ndim == 1 else part[:, : tensor.shape[1]]).copy_(tensor)
        return larger

    def begin(self, first: int, requests: Sequence[Request], budgets: Sequence[int]) -> None:
        """Prepare the rows from `first` on for answers of up to so many tokens each.

        In few operations for all of them, none of which waits for the device: after each, this thread may have to wait
        until others let it go on.
        """
        rows, device = slice(first, first + len(requests)), self.drawn.device
        settings = [self._settings(request) for request in requests]
        columns = to_device(torch.tensor(settings, dtype=torch.float64).T, device)
        held = self.shortest, self.sampled, self.temperature, self.top_k, self.top_p, self.penalty[:, 0]
        torch._foreach_copy_([tensor[rows] for tensor in held], [*columns])
        self.drawn[rows] = 0
        self.seen[rows] = False
        self.banned[rows] = False
        if all(request.forbidden == requests[0].forbidden for request in requests):
            mark_ranges(self.banned[rows], requests[0].forbidden)
        else:
            for number, request in enumerate(requests, start=first):
                mark_ranges(self.banned[number], request.forbidden)
        uniform = torch.zeros(len(requests), max(budgets))
        for row, request, budget in zip(uniform, requests, budgets, strict=True):
            config = request.config
            if config.temperature:
                generator = None if config.seed is None else torch.Generator().manual_seed(config.seed)
                torch.rand(budget, generator=generator, out=row[:budget])
        self.uniform[rows, : uniform.shape[1]] = to_device(uniform, device)
        for number, request in enumerate(requests, start=first):
            if request.penalize_prompt:
                self.seen[number].index_fill_(0, to_device(request.token_ids, device), True)

    def move(self, source: int, target: int) -> None:
        """Let row `target` go on where row `source` is."""
        for _, tensor in self._tensors():
            tensor[target] = tensor[source]

    def plan(self, rows: Iterable[tuple[Request, int]]) -> SamplingPlan:
        """Return what has to be computed for requests that have drawn so many tokens."""
        rows = list(rows)
        configs = [request.config for request, _ in rows]
        return SamplingPlan(
            self._width(configs),
            not all(config.temperature for config in configs),
            any(drawn < request.config.min_length - len(request.token_ids) for request, drawn in rows),
            any(config.repetition_penalty != 1 for config in configs),
        )

    def sample(self, logits: torch.Tensor, plan: SamplingPlan, first: int = 0) -> torch.Tensor:
        """Return the next token [B] of the rows from `first` on, from logits [B, V]; BROKEN where these hold NaN."""
        rows = slice(first, first + len(logits))
        if self.has_kernels and 0 < plan.width <= CANDIDATE_BUCKETS[-1]:
            return self._sample_by_kernels(logits, plan, rows)
        logits = self._restrict(logits.masked_fill(self.banned[rows], NEG_INF), plan, rows)
        if plan.greedy or not plan.width:
            tokens = logits.argmax(-1)  # of what is no number, if there is any
        if plan.width:
            drawn = self._draw(logits, plan, rows)
            tokens = torch.where(self.sampled[rows], drawn, tokens) if plan.greedy else drawn
        broken = logits.gather(1, tokens[:, None]).isnan().squeeze(1)
        self.seen[rows].scatter_(1, tokens[:, None], True)
        self.drawn[rows] += 1
        return tokens.masked_fill(broken, NAN_TOKEN)

    def _sample_by_kernels(self, logits: torch.Tensor, plan: SamplingPlan, rows: slice) -> torch.Tensor:
        """Do the same in two kernels and torch's topk."""
        from ..kernels.triton import sampling  # imports triton

        marks = self.banned[rows], self.seen[rows], self.penalty[rows], self.temperature[rows]
        counts = self.drawn[rows], self.shortest[rows]
        values, ids = sampling.process_logits(logits, *marks, counts, self.eos_token_id).topk(plan.width)
        effective_limits = self.top_k[rows], self.top_p[rows]
        chosen = self.uniform[rows], self.sampled[rows], self.drawn[rows], self.seen[rows]
        return sampling.sample_candidates(values, ids, effective_limits, *chosen, NAN_TOKEN)

    def _draw(self, logits: torch.Tensor, plan: SamplingPlan, rows: slice) -> torch.Tensor:
        """Draw a token [B] by each row's random number; one whose logit is no number, if there is any."""
        shape = SamplingTensors(self.temperature[rows], self.top_k[rows], self.top_p[rows], plan.width)
        probabilities, ids = candidates(logits, shape)
        place = self.drawn[rows, None].clamp(max=self.uniform.shape[1] - 1)
        return sample_inverse_cdf(probabilities, ids, self.uniform[rows].gather(1, place).squeeze(1))

    def _restrict(self, logits: torch.Tensor, plan: SamplingPlan, rows: slice) -> torch.Tensor:
        """Forbid an early end, and lower what the answers already have."""
        if plan.early:
            early = self.drawn[rows] < self.shortest[rows]
            logits[:, self.eos_token_id].masked_fill_(early, NEG_INF)
        if plan.penalized:
            logits = penalize(logits, self.seen[rows], self.penalty[rows])
        return logits

    def _width(self, configs: Sequence[GenerationConfig]) -> int:
        """Return how many candidates have to be looked at."""
        widths = [config.top_k or self.vocab_size for config in configs if config.temperature]
        if not widths:
            return 0
        wanted = max(widths)
        return min(next((width for width in CANDIDATE_BUCKETS if width >= wanted), self.vocab_size), self.vocab_size)

    def _settings(self, request: Request) -> tuple[float, ...]:
        """Return shortest, sampled, temperature, top_k, top_p and penalty of a row."""
        config = request.config
        top_k, top_p = effective_limits(config, self.vocab_size)
        shortest, sampled = config.min_length - len(request.token_ids), bool(config.temperature)
        return shortest, sampled, config.temperature or 1.0, top_k, top_p, config.repetition_penalty

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)]

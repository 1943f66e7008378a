"""Sample the next token of every sequence in a batch, each with its own sampling parameters and seed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from ..kernels.dispatch import has_triton
from .config import GenerationConfig, IdRange
from .logprobs import top_bucket
from .network import to_device
from .sequence import Request

NEG_INF = float("-inf")


class SamplingTensors(NamedTuple):
    """Sampling parameters of a batch.

    Attributes:
        temperature: float32 [B].
        top_k, top_p: int64 and float32 [B], see `effective_limits`.
        num_candidates: W, candidates per sequence: the largest top_k, at most the vocabulary size.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    num_candidates: int


def effective_limits(config: GenerationConfig, vocab_size: int) -> tuple[int, float]:
    """Return top_k and top_p; a disabled limit becomes a value that excludes no token."""
    return config.top_k or vocab_size, float(config.top_p) if config.top_p < 1 else float("inf")


def sampling_tensors(config: GenerationConfig, vocab_size: int) -> SamplingTensors:
    """Return the sampling parameters of a single sequence, B = 1; its temperature is not 0."""
    top_k, top_p = effective_limits(config, vocab_size)
    temperature = torch.tensor([float(config.temperature)])
    return SamplingTensors(temperature, torch.tensor([top_k]), torch.tensor([top_p]), min(top_k, vocab_size))


def mark_ranges(mask: torch.Tensor, ranges: Iterable[IdRange]) -> None:
    """Set the entries of half-open id `ranges` in a boolean mask [..., V] to True."""
    for start, stop in ranges:
        mask[..., start:stop] = True


def penalize(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Apply the repetition penalty [B, 1] to the logits [B, V] where `seen` [B, V] is True.

    A positive logit is divided and a negative one multiplied, so that both decrease.
    Paper: CTRL, https://arxiv.org/abs/1909.05858.
    """
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lowered, logits)


def candidates(logits: torch.Tensor, tensors: SamplingTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the candidates' probabilities [B, W] and token ids [B, W], most likely first.

    Applies the temperature, then top-k, then nucleus sampling (https://arxiv.org/abs/1904.09751): the fewest remaining
    tokens whose probabilities sum to more than `top_p`. Each filter also works alone.
    """
    values, ids = torch.topk(logits.float() / tensors.temperature[:, None], tensors.num_candidates, dim=-1)
    rank = torch.arange(tensors.num_candidates, device=logits.device)
    values = values.masked_fill(rank >= tensors.top_k[:, None], NEG_INF)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # exclusive cumulative sum
    return values.masked_fill(before > tensors.top_p[:, None], NEG_INF).softmax(-1), ids


def sample_inverse_cdf(probabilities: torch.Tensor, ids: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Sample tokens [B] by inverse transform sampling.

    Args:
        probabilities: [B, W].
        ids: token ids [B, W].
        uniform: random numbers [B] from 0 to 1.
    """
    cdf = probabilities.cumsum(-1)
    index = (cdf < uniform[:, None] * cdf[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(-1, index).squeeze(-1)


NAN_TOKEN = -1  # sampled in place of a token id where the logits contain NaN
# The number of candidates is padded to these, so that few CUDA graphs cover all settings. The sampling kernel holds all
# candidates of a sequence at once: with more of them, such as a whole vocabulary, its compilation does not finish.
CANDIDATE_BUCKETS = (128, 1024)


class SamplingPlan(NamedTuple):
    """Which sampling operations a batch needs; part of the key of a captured decode step.

    Attributes:
        num_candidates: candidates per sequence; 0 if every sequence is greedy.
        any_greedy: whether a sequence takes the most likely token.
        enforce_min_length: whether a sequence may not end yet.
        apply_penalty: whether a sequence has a repetition penalty.
        num_top_logprobs: see `logprobs.top_bucket`.
        any_forced: whether a sequence has forced tokens.
    """

    num_candidates: int
    any_greedy: bool
    enforce_min_length: bool
    apply_penalty: bool
    num_top_logprobs: int | None = None
    any_forced: bool = False


class Sampler:
    """Samples a token for each slot, entirely on the device.

    The random numbers of a sequence are drawn from its own seed when it starts, so that its tokens do not depend on the
    other sequences in the batch.

    Args:
        slots: number of slots.
        vocab_size: V, the number of logits.
        max_new_tokens: maximum number of tokens of an answer.
        eos_token_id: the token that ends an answer.
        device: device of the logits.
    """

    def __init__(
        self, slots: int, vocab_size: int, max_new_tokens: int, eos_token_id: int, device: torch.device
    ) -> None:
        self.vocab_size = vocab_size
        self.eos_token_id = eos_token_id
        self.has_kernels = has_triton(device)
        self.num_sampled = torch.zeros(slots, dtype=torch.long, device=device)
        self.min_new_tokens = torch.zeros(slots, dtype=torch.long, device=device)
        self.banned = torch.zeros(slots, vocab_size, dtype=torch.bool, device=device)
        self.seen = torch.zeros(slots, vocab_size, dtype=torch.bool, device=device)
        self.uniform = torch.zeros(slots, max_new_tokens, device=device)
        self.forced = torch.zeros(slots, max_new_tokens, dtype=torch.long, device=device)
        self.num_forced = torch.zeros(slots, dtype=torch.long, device=device)
        self.do_sample = torch.zeros(slots, dtype=torch.bool, device=device)
        self.temperature = torch.ones(slots, device=device)
        self.top_k = torch.zeros(slots, dtype=torch.long, device=device)
        self.top_p = torch.ones(slots, device=device)
        self.penalty = torch.ones(slots, 1, device=device)

    def grown(self, slots: int, max_new_tokens: int) -> "Sampler":
        """Return a sampler for more slots and longer answers, with a copy of the state of this one."""
        larger = Sampler(slots, self.vocab_size, max_new_tokens, self.eos_token_id, self.num_sampled.device)
        for name, tensor in self._tensors():
            part = vars(larger)[name][: len(tensor)]
            (part if tensor.ndim == 1 else part[:, : tensor.shape[1]]).copy_(tensor)
        return larger

    def init_slots(self, first: int, requests: Sequence[Request], max_new_tokens: Sequence[int]) -> None:
        """Initialize the slots from `first` on for new sequences.

        Uses few batched, asynchronous operations: every operation can make this thread wait for the GIL.

        Args:
            first: slot of the first sequence.
            requests: the request of each sequence.
            max_new_tokens: maximum number of tokens to generate for each sequence.
        """
        slots, device = slice(first, first + len(requests)), self.num_sampled.device
        settings = [self._settings(request) for request in requests]
        columns = to_device(torch.tensor(settings, dtype=torch.float64).T, device)
        stored = [self.min_new_tokens, self.do_sample, self.temperature, self.top_k, self.top_p, self.penalty[:, 0]]
        stored.append(self.num_forced)
        torch._foreach_copy_([tensor[slots] for tensor in stored], [*columns])
        self.num_sampled[slots] = 0
        self.seen[slots] = False
        self.banned[slots] = False
        if all(request.forbidden == requests[0].forbidden for request in requests):
            mark_ranges(self.banned[slots], requests[0].forbidden)
        else:
            for slot, request in enumerate(requests, start=first):
                mark_ranges(self.banned[slot], request.forbidden)
        uniform = torch.zeros(len(requests), max(max_new_tokens))
        for row, request, count in zip(uniform, requests, max_new_tokens, strict=True):
            config = request.config
            if config.temperature:
                generator = None if config.seed is None else torch.Generator().manual_seed(config.seed)
                torch.rand(count, generator=generator, out=row[:count])
        self.uniform[slots, : uniform.shape[1]] = to_device(uniform, device)
        for slot, (request, count) in enumerate(zip(requests, max_new_tokens, strict=True), start=first):
            if request.penalize_prompt:
                self.seen[slot].index_fill_(0, to_device(request.token_ids, device), True)
            if forced_ids := request.forced_ids[:count]:
                self.forced[slot, : len(forced_ids)] = to_device(forced_ids, device)

    def move(self, source: int, target: int) -> None:
        """Copy the state of slot `source` to slot `target`."""
        for _, tensor in self._tensors():
            tensor[target] = tensor[source]

    def plan(self, sequences: Iterable[tuple[Request, int]]) -> SamplingPlan:
        """Return the plan for sampling the next tokens.

        Args:
            sequences: request of each sequence, and the number of tokens sampled so far.
        """
        sequences = list(sequences)
        configs = [request.config for request, _ in sequences]
        return SamplingPlan(
            self._num_candidates(configs),
            not all(config.temperature for config in configs),
            any(sampled < request.config.min_length - len(request.token_ids) for request, sampled in sequences),
            any(config.repetition_penalty != 1 for config in configs),
            top_bucket(configs),
            any(request.forced_ids for request, _ in sequences),
        )

    def sample(self, logits: torch.Tensor, plan: SamplingPlan, first: int = 0) -> torch.Tensor:
        """Return the next token [B] of the slots from `first` on, NAN_TOKEN for logits that contain NaN.

        Args:
            logits: [B, V] in any dtype; not modified. They are processed in float32.
            plan: the operations to apply.
            first: slot of the first sequence.
        """
        slots = slice(first, first + len(logits))
        tokens = self._sample_tokens(logits, plan, slots)
        return self._force(tokens, slots) if plan.any_forced else tokens

    def _sample_tokens(self, logits: torch.Tensor, plan: SamplingPlan, slots: slice) -> torch.Tensor:
        if self.has_kernels and plan.num_candidates <= CANDIDATE_BUCKETS[-1]:
            return self._sample_by_kernels(logits, plan, slots)
        logits = self._process_logits(logits.float().masked_fill(self.banned[slots], NEG_INF), plan, slots)
        if plan.any_greedy or not plan.num_candidates:
            tokens = logits.argmax(-1)  # the index of a NaN, if there is one
        if plan.num_candidates:
            sampled = self._sample_candidates(logits, plan, slots)
            tokens = torch.where(self.do_sample[slots], sampled, tokens) if plan.any_greedy else sampled
        has_nan = logits.gather(1, tokens[:, None]).isnan().squeeze(1)
        self.seen[slots].scatter_(1, tokens[:, None], True)
        self.num_sampled[slots] += 1
        return tokens.masked_fill(has_nan, NAN_TOKEN)

    def _force(self, tokens: torch.Tensor, slots: slice) -> torch.Tensor:
        """Return the tokens [B], with forced ones in place of sampled ones; NAN_TOKEN is kept."""
        index = self.num_sampled[slots] - 1
        forced = self.forced[slots].gather(1, index.clamp(max=self.forced.shape[1] - 1)[:, None]).squeeze(1)
        return torch.where((index < self.num_forced[slots]) & (tokens != NAN_TOKEN), forced, tokens)

    def _sample_by_kernels(self, logits: torch.Tensor, plan: SamplingPlan, slots: slice) -> torch.Tensor:
        """Compute the same as `sample` with two Triton kernels."""
        from ..kernels.triton import sampling  # imports triton

        return sampling.sample(
            logits,
            self.banned[slots],
            self.seen[slots],
            self.penalty[slots],
            self.temperature[slots],
            (self.num_sampled[slots], self.min_new_tokens[slots]),
            self.eos_token_id,
            (self.top_k[slots], self.top_p[slots]),
            self.uniform[slots],
            self.do_sample[slots],
            plan.num_candidates or min(CANDIDATE_BUCKETS[0], self.vocab_size),
            NAN_TOKEN,
        )

    def _sample_candidates(self, logits: torch.Tensor, plan: SamplingPlan, slots: slice) -> torch.Tensor:
        """Sample tokens [B] with the next random number of each slot.

        A row with a NaN yields a token whose logit is NaN.
        """
        tensors = SamplingTensors(self.temperature[slots], self.top_k[slots], self.top_p[slots], plan.num_candidates)
        probabilities, ids = candidates(logits, tensors)
        index = self.num_sampled[slots, None].clamp(max=self.uniform.shape[1] - 1)
        return sample_inverse_cdf(probabilities, ids, self.uniform[slots].gather(1, index).squeeze(1))

    def _process_logits(self, logits: torch.Tensor, plan: SamplingPlan, slots: slice) -> torch.Tensor:
        """Mask the end token of sequences below their minimum length, and apply the repetition penalty."""
        if plan.enforce_min_length:
            too_short = self.num_sampled[slots] < self.min_new_tokens[slots]
            logits[:, self.eos_token_id].masked_fill_(too_short, NEG_INF)
        if plan.apply_penalty:
            logits = penalize(logits, self.seen[slots], self.penalty[slots])
        return logits

    def _num_candidates(self, configs: Sequence[GenerationConfig]) -> int:
        """Return the number of candidates per sequence: the largest top_k, padded to a bucket; 0 if all are greedy."""
        counts = [config.top_k or self.vocab_size for config in configs if config.temperature]
        if not counts:
            return 0
        largest = max(counts)
        padded = next((bucket for bucket in CANDIDATE_BUCKETS if bucket >= largest), self.vocab_size)
        return min(padded, self.vocab_size)

    def _settings(self, request: Request) -> tuple[float, ...]:
        """Return min_new_tokens, do_sample, temperature, top_k, top_p, penalty and num_forced of a sequence."""
        config = request.config
        top_k, top_p = effective_limits(config, self.vocab_size)
        min_new_tokens, do_sample = config.min_length - len(request.token_ids), bool(config.temperature)
        limits = config.temperature or 1.0, top_k, top_p, config.repetition_penalty
        return min_new_tokens, do_sample, *limits, len(request.forced_ids)

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)]

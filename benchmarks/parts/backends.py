"""The measured backends (our engine, our chat models, SAT's own generation) and their measurements."""

import collections
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from benchmarks.parts.machine import synchronize
from benchmarks.parts.prompts import SHORT, Case, fixed_length_config, length_question, random_pixels
from benchmarks.parts.sat_baseline import SatGeneration
from model import Conversation, HfChatModel, SatChatModel
from model.engine import Request

T = TypeVar("T")
FIRST_TOKENS = 2  # tokens of an answer when only the first is measured; SAT's measurement needs a second one


@dataclass(frozen=True)
class AnswerTimes:
    """Seconds to the first token, and mean seconds per further token."""

    first_s: float
    token_s: float


@dataclass(frozen=True)
class ConcurrentAnswers:
    """Token times of answers that were requested at the same moment.

    Attributes:
        started: that moment.
        times: times of each token of each answer.
    """

    started: float
    times: list[list[float]]

    @property
    def total_rate(self) -> float:
        """Tokens/s from the request to the last token."""
        return sum(map(len, self.times)) / (max(one[-1] for one in self.times) - self.started)

    @property
    def steady_rate(self) -> float:
        """Tokens/s while all answers decode: from the latest first token to the earliest last token.

        Raises:
            RuntimeError: there is no such interval.
        """
        begin, end = max(one[0] for one in self.times), min(one[-1] for one in self.times)
        if end <= begin:
            raise RuntimeError("The answers never all decoded at the same time.")
        return sum(begin < moment <= end for one in self.times for moment in one) / (end - begin)


class EngineBackend:
    """Our engine: token ids in, token ids out. Time to first token includes the image; there is no text."""

    def __init__(self, model: SatChatModel) -> None:
        self.model = model
        self.eos_token_id = model.tokenizer.eos_token_id

    def request(
        self, length: int, tokens: int, pixels: torch.Tensor, seed: int, embeddings: torch.Tensor | None = None
    ) -> Request:
        """Return a request to the engine."""
        config = fixed_length_config(tokens, self.eos_token_id, seed)
        prompt, request = self.model.make_request(
            Conversation(pixels), length_question(length, seed), config, embeddings
        )
        assert len(prompt.token_ids) == length
        return request

    def answer(self, length: int, tokens: int, pixels: torch.Tensor, seed: int) -> AnswerTimes:
        """Answer one prompt."""
        started = time.perf_counter()
        request = self.request(length, tokens, pixels, seed)
        steps = self.model.scheduler.submit(request)
        times = [time.perf_counter() for step in steps if step.token_id is not None]
        return to_times(started, times, tokens)

    def read(self, pixels: torch.Tensor) -> None:
        """Encode an image as requests do."""
        self.model.image_cache.embed(pixels)

    def answer_many(self, length: int, tokens: int, images: list[torch.Tensor], seed: int) -> ConcurrentAnswers:
        """Answer one prompt per image concurrently."""
        started = time.perf_counter()
        times: collections.defaultdict[Request, list[float]] = collections.defaultdict(list)
        requests = self._requests(length, tokens, images, seed)
        for request, step in self.model.scheduler.answer_all(requests, len(images)):
            if isinstance(step, Exception):
                raise step
            if step.token_id is not None:
                times[request].append(time.perf_counter())
        assert [len(one) for one in times.values()] == [tokens] * len(images), "an answer has another length"
        return ConcurrentAnswers(started, list(times.values()))

    def _requests(self, length: int, tokens: int, images: list[torch.Tensor], seed: int) -> Iterator[Request]:
        """Yield requests like `answer_batch`: the next images are encoded while earlier requests decode."""
        preferred_batch_size = self.model.image_cache.preferred_batch_size
        for start in range(0, len(images), preferred_batch_size):
            group = images[start : start + preferred_batch_size]
            for number, embeddings in enumerate(self.model.image_cache.encode(group), start):
                yield self.request(length, tokens, images[number], seed + number, embeddings)


class ChatBackend:
    """A ChatModel, by stream_answer: user-visible latency, including detokenization."""

    def __init__(self, model: SatChatModel | HfChatModel) -> None:
        self.model = model

    def answer(self, length: int, tokens: int, pixels: torch.Tensor, seed: int) -> AnswerTimes:
        """Answer one prompt."""
        config = fixed_length_config(tokens, self.model.tokenizer.eos_token_id, seed)
        *_, last = self.model.stream_answer(Conversation(pixels), length_question(length, seed), config)
        usage = last.usage
        assert usage is not None and (usage.prompt_tokens, usage.answer_tokens) == (length, tokens)
        return AnswerTimes(usage.first_token_s, (usage.total_s - usage.first_token_s) / (tokens - 1))


class SatBackend:
    """SAT's own generation on its own network; see `sat_baseline`."""

    def __init__(self, model: SatChatModel) -> None:
        self.model = model
        self.sat = SatGeneration(model)

    def answer(self, length: int, tokens: int, pixels: torch.Tensor, seed: int) -> AnswerTimes:
        """Answer one prompt."""
        measured = self.sat.answer(Case(length_question(length, seed), tokens), pixels, seed)
        assert measured.prompt_tokens == length
        return AnswerTimes(measured.first_token_s, 1 / measured.tokens_per_s)

    @torch.no_grad()
    def read(self, pixels: torch.Tensor) -> None:
        """Encode an image by the forward pass of SAT's classes."""
        self.model.network.get_mixin("eva").model(pixels)

    def answer_in_turn(self, length: int, tokens: int, images: list[torch.Tensor]) -> float:
        """Answer one prompt per image sequentially; return the total tokens/s."""
        started = time.perf_counter()
        for seed, pixels in enumerate(images):
            self.answer(length, tokens, pixels, seed)
        return tokens * len(images) / (time.perf_counter() - started)


def to_times(started: float, times: list[float], tokens: int) -> AnswerTimes:
    """Return the times of an answer from its token times."""
    assert len(times) == tokens, f"the answer has {len(times)} tokens, not {tokens}"
    return AnswerTimes(times[0] - started, (times[-1] - times[0]) / (tokens - 1))


class Measurements:
    """A backend and its measurements; several rows may share one measurement.

    Args:
        backend: the measured backend.
        repetitions: repetitions of each measurement, after an uncounted one; the median is taken.
    """

    def __init__(self, backend: Any, repetitions: int) -> None:
        self.backend = backend
        self.repetitions = repetitions
        self.seed = 0
        self.known: dict[tuple[Any, ...], Any] = {}

    def cached(self, key: tuple[Any, ...], measure: Callable[[], T]) -> T:
        """Return the result of `measure`, which is called once per key."""
        if key not in self.known:
            self.known[key] = measure()
        return self.known[key]  # type: ignore[no-any-return]

    def images(self, count: int = 1) -> list[torch.Tensor]:
        """Return new images."""
        self.seed += 1000
        return random_pixels(count, self.backend.model.network.image_size, self.seed)

    def median(self, measure: Callable[[], float]) -> float:
        """Return the median of repeated measurements."""
        measure()
        return statistics.median(measure() for _ in range(self.repetitions))

    def startup_s(self) -> float:
        """Return how much longer the first answer takes than the second: captures, compilation, allocation."""
        [first, second] = self.images(2)
        synchronize(self.backend.model.network.device)
        seconds = [time_call(partial(self.backend.answer, SHORT, 8, one, 0)) for one in (first, second)]
        return seconds[0] - seconds[1]

    def token_ms(self, length: int, tokens: int) -> float:
        """Return milliseconds per token."""
        [pixels] = self.images()

        def measure() -> float:
            return self.median(lambda: self.backend.answer(length, tokens, pixels, self.seed).token_s * 1e3)

        return self.cached(("token", length, tokens), measure)

    def first_ms(self, length: int, known: bool = False) -> float:
        """Return milliseconds to the first token, with new images or with a cached one (`known`)."""
        shown = self.images(self.repetitions + 1)
        images = iter([shown[0]] * len(shown) if known else shown)
        return self.median(lambda: self.backend.answer(length, FIRST_TOKENS, next(images), self.seed).first_s * 1e3)

    def concurrent(self, count: int, tokens: int) -> tuple[ConcurrentAnswers, ConcurrentAnswers]:
        """Return `count` concurrent answers about new images, and again about the same; after a warm-up."""

        def measure() -> tuple[ConcurrentAnswers, ConcurrentAnswers]:
            self.backend.answer_many(SHORT, tokens, self.images(count), self.seed)
            shown = self.images(count)
            new, known = (self.backend.answer_many(SHORT, tokens, shown, self.seed) for _ in range(2))
            return new, known

        return self.cached(("rates", count, tokens), measure)

    def image_ms(self) -> float:
        """Return milliseconds to encode a new image."""
        images, device = iter(self.images(self.repetitions + 1)), self.backend.model.network.device

        def read() -> None:
            self.backend.read(next(images))
            synchronize(device)

        return self.median(lambda: time_call(read) * 1e3)

    def peak_gib(self, length: int, tokens: int) -> float:
        """Return the peak GPU memory of an answer, with weights; no other backend may use the GPU."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.backend.answer(length, tokens, self.images()[0], self.seed)
        return torch.cuda.max_memory_allocated() / 2**30


def time_call(work: Callable[[], Any]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def decoder_weight_bytes(network: Any) -> int:
    """Return the bytes of weights that the language model reads per token: its layers and lm_head."""
    parts = (*network.transformer.layers.parameters(), *network.lm_head.parameters())
    return sum(parameter.nbytes for parameter in parts)

"""The service behind all routes: model, limits, threads, metrics and the request log."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from model import ENGLISH, ChatModel, Conversation, GenerationConfig, SettingError, Turn, Usage
from model.chat_model import demo_config
from model.prompt import question_language

from ..body_budget import BodyBudget
from ..explanations import Explainer, can_explain, describe_explanation
from ..image_reader import ImageReader, ImageSource
from .admission import ConcurrencyLimiter, Permit
from .api_errors import OVERLOADED, ApiError, internal_error, timeout_error, to_api_error
from .generation import EVENT_INTERVAL_S, ChunkSource, GenerationTask
from .parsing import BodyParser, check_characters
from .request_log import Metrics, RequestRecord, log
from .settings import Settings


@dataclass(frozen=True)
class Question:
    """The content of a request, independent of its protocol.

    Attributes:
        turns: earlier turns, oldest first.
        image: as the request gave it, or None; it can be read once.
        configs: generation settings of each answer.
        stop_strings: strings before which an answer ends.
        explain: whether to explain the answer; "tokens" also gives a map for each token.
    """

    text: str
    turns: Sequence[Turn]
    image: ImageSource | None
    configs: Sequence[GenerationConfig]
    stop_strings: Sequence[str] = ()
    streamed: bool = False
    explain: bool | Literal["tokens"] = False


class Service:
    """One model behind all routes.

    Args:
        settings: the limits.
        model: generates the answers; None while it is loading.
    """

    def __init__(self, settings: Settings, model: ChatModel | None = None) -> None:
        self.settings = settings
        self.model = model
        self.limiter = ConcurrencyLimiter(settings.max_batch, settings.max_concurrent_answers, settings.max_per_key)
        self.body_budget = BodyBudget(settings.max_bodies)
        self.parser = BodyParser(settings.max_json_tokens, settings.max_text)
        self.images = ImageReader(
            settings.image_limits,
            allow_urls=settings.allow_image_urls,
            max_images=settings.max_concurrent_answers,
            seconds=settings.decode_timeout,
        )
        self.explainer = Explainer()
        # A permit is released slightly before its thread is idle, so there are more threads than permits.
        self.pool = ThreadPoolExecutor(settings.max_concurrent_answers + settings.max_batch, "answer")
        self.active: set[GenerationTask] = set()
        self.metrics = Metrics(lambda: self.limiter.running, lambda: self._count(False), lambda: self._count(True))
        # Replaced where several processes serve together, and show the sum of their metrics.
        self.export_metrics: Callable[[], Awaitable[bytes]] = self.export_own_metrics

    async def export_own_metrics(self) -> bytes:
        """Return the metrics of this process in Prometheus' text format."""
        return self.metrics.export()

    def _count(self, has_started: bool) -> int:
        return sum((usage is not None) is has_started for task in list(self.active) for usage in task.usages)

    def choose_config(self, **given: float | int | None) -> GenerationConfig:
        """Return the model's demo settings, overridden by the settings of a request.

        Raises:
            SettingError: a value is invalid, or exceeds the server's limit.
        """
        length, limit = given.get("max_length"), self.settings.max_length
        if length is not None and length > limit:
            raise SettingError(f"max_length is {length}; this server allows at most {limit}.")
        config = demo_config(self.model)
        return config.replace(**{"max_length": min(config.max_length, limit), **given})

    def check_question(self, text: str, turns: Sequence[Turn]) -> None:
        """Validate a question and its history: lengths first, because the remaining checks read every character.

        Raises:
            ApiError: 400, the question is empty, or the texts are too long or contain control characters.
        """
        if len(turns) > (limit := self.settings.max_history):
            message = f"The history has {len(turns)} turns; at most {limit} are allowed. Leave out the oldest."
            raise ApiError(400, message, code="history_too_long")
        length = len(text) + sum(len(turn.question) + len(turn.answer) for turn in turns)
        if length > (limit := self.settings.max_text):
            message = f"Question and history have {length:,} characters; at most {limit:,} are allowed. Shorten them."
            raise ApiError(400, message, code="text_too_long")
        if not text.strip():
            raise ApiError(400, "The question is empty. Ask a question, even about an image.", code="empty_question")
        check_characters([text, *(part for turn in turns for part in (turn.question, turn.answer))])

    def check_explanation(self, question: Question) -> None:
        """Check that the answer to a question can be explained.

        Raises:
            ApiError: 400, explanations are not allowed, or there is no image, or more than one answer.
        """
        if not self.settings.allow_explain:
            reason = (
                "This server does not explain answers. Leave explain out, or start the server with --allow-explain."
            )
        elif not can_explain(self.model):
            reason = "The model of this server cannot explain answers. Leave explain out."
        elif question.image is None:
            reason = "explain needs an image: it shows which part of it decides the answer. Send one, or leave it out."
        elif len(question.configs) > 1:
            reason = f"explain needs a single answer, and n is {len(question.configs)}. Leave one of them out."
        else:
            return
        raise ApiError(400, reason, code="invalid_value", param="explain")

    async def start(self, question: Question, record: RequestRecord) -> GenerationTask:
        """Acquire permits for the answers, decode the image, and start generation.

        Raises:
            ApiError: the server is busy, the question is invalid, or the request timed out.
            VisualGLMError: the image cannot be used.
        """
        self.check_question(question.text, question.turns)
        if question.explain:
            self.check_explanation(question)
        record.answers, record.streamed = len(question.configs), question.streamed
        record.picture = question.image is not None
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout
        permits = self.limiter.acquire(None if record.key is None else str(record.key), len(question.configs))
        try:
            image = await self._read_image(question.image, deadline)
            return self._start_generation(question, image, permits, deadline)
        finally:
            for permit in permits:
                permit.release()

    async def _read_image(self, image: ImageSource | None, deadline: float) -> object:
        if image is None:
            return None
        assert self.model is not None  # requests are rejected until it is loaded
        try:
            async with asyncio.timeout_at(deadline):
                return await self.images.read(image, self.model.image_size)
        except TimeoutError:
            raise timeout_error() from None

    def _start_generation(
        self, question: Question, image: object, permits: Sequence[Permit], deadline: float
    ) -> GenerationTask:
        assert self.model is not None
        language = question_language(question.text, ENGLISH, question.turns)  # English is the original's default here
        conversation = Conversation(image, list(question.turns), language)
        # With stop strings, each token comes in a chunk of its own, so that generation ends at the matching token.
        min_interval_s = 0.0 if question.stop_strings else EVENT_INTERVAL_S
        stream = partial(self.model.stream_answer, conversation, question.text, min_interval_s=min_interval_s)
        sources: list[ChunkSource] = [partial(stream, config) for config in question.configs]
        task = GenerationTask(
            self.pool,
            sources,
            permits,
            question.stop_strings,
            explain=partial(self._explain, self.model, question, conversation) if question.explain else None,
            streamed=question.streamed,
            deadline=deadline,
        )
        self.active.add(task)
        return task

    def _explain(
        self,
        model: ChatModel,
        question: Question,
        conversation: Conversation,
        answer: str,
        usage: Usage | None,
        is_cancelled: Callable[[], bool],
    ) -> dict[str, Any] | None:
        """Explain an answer, in its thread, after the same turns as it was generated; return JSON values."""
        turns = conversation.turns[usage.dropped_turns if usage else 0 :]
        kept = Conversation(conversation.image, turns, conversation.language)
        explanation = self.explainer.explain(model, kept, question.text, answer, is_cancelled)
        if explanation is None:
            return None
        return describe_explanation(explanation, with_token_maps=question.explain == "tokens")

    def finish(self, task: GenerationTask, question: Question, record: RequestRecord, texts: Sequence[str]) -> None:
        """Record the usage of a request's answers; cancel answers that are still running."""
        task.cancel()
        self.active.discard(task)
        usages = [usage for usage in task.usages if usage is not None]
        record.first_token_s = None if task.first_token_s is None else round(task.first_token_s, 4)
        record.prompt_tokens = sum(usage.prompt_tokens for usage in usages)
        record.answer_tokens = sum(usage.answer_tokens for usage in usages)
        record.dropped_turns = max((usage.dropped_turns for usage in usages), default=0)
        if task.explanation_s is not None:
            record.explanation_s = round(task.explanation_s, 4)
            self.metrics.observe_explanation(task.explanation_s)
        self.metrics.count_tokens(record.prompt_tokens, record.answer_tokens)
        for usage in usages:
            later = usage.answer_tokens - 1
            self.metrics.observe_times(
                usage.first_token_s, (usage.total_s - usage.first_token_s) / later if later > 0 else None
            )
        if self.settings.log_text:
            record.text = {"question": question.text, "answers": list(texts)}

    def report_error(self, error: Exception, record: RequestRecord) -> ApiError:
        """Return the API error for an exception; log unexpected exceptions with their traceback."""
        api_error = to_api_error(error, self.limiter.retry_after)
        record.error = type(error).__name__ if api_error is None else api_error.code
        if api_error is None or api_error.status_code == 500 or api_error.code == OVERLOADED:
            log("error", logging.ERROR, error, id=record.id)
        return api_error or internal_error(record.id)

    def close(self) -> None:
        """Stop the threads; running answers end at their next chunk."""
        for task in list(self.active):
            task.cancel()
        self.images.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

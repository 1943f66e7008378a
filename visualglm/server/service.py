"""What the routes share: the model, the places, the threads, and the notes about each request."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from model import ENGLISH, ChatModel, Conversation, GenerationConfig, SettingError, Turn
from model.chat_model import demo_config
from model.prompt import question_language

from .answering import EVENT_S, Answering, Write
from .limits import BodyBudget, Gate, Slot
from .parsing import BodyParser, check_characters
from .pictures import PictureReader, PictureSource
from .refusals import OVERLOADED, Refusal, internal_error, timed_out, to_refusal
from .settings import Settings
from .trace import Metrics, Trace, log


@dataclass(frozen=True)
class Question:
    """What a request asks, whatever its protocol.

    Attributes:
        turns: earlier rounds, oldest first.
        picture: as the request gave it, or None; it can be read once.
        configs: of each of its answers.
        stops: strings before which an answer ends.
    """

    text: str
    turns: Sequence[Turn]
    picture: PictureSource | None
    configs: Sequence[GenerationConfig]
    stops: Sequence[str] = ()
    streamed: bool = False


class Service:
    """One model behind all routes.

    Args:
        settings: what is allowed.
        model: answers; None as long as it is being loaded.
    """

    def __init__(self, settings: Settings, model: ChatModel | None = None) -> None:
        self.settings = settings
        self.model = model
        self.gate = Gate(settings.max_batch, settings.most_answers, settings.max_per_key)
        self.bodies = BodyBudget(settings.max_bodies)
        self.parser = BodyParser(settings.max_json_tokens, settings.max_text)
        self.pictures = PictureReader(settings)
        # A place may be free a moment before its thread is, so there are as many threads as places and some more.
        self.pool = ThreadPoolExecutor(settings.most_answers + settings.max_batch, "answer")
        self.active: set[Answering] = set()
        self.metrics = Metrics(lambda: self.gate.running, lambda: self._count(False), lambda: self._count(True))

    def _count(self, begun: bool) -> int:
        return sum((usage is not None) is begun for answering in list(self.active) for usage in answering.usages)

    def choose_config(self, **given: float | int | None) -> GenerationConfig:
        """Return the model's settings for demonstrations with those that a request gave.

        Raises:
            SettingError: one makes no sense, or is more than is allowed here.
        """
        length, most = given.get("max_length"), self.settings.max_length
        if length is not None and length > most:
            raise SettingError(f"max_length is {length}; this server allows at most {most}.")
        config = demo_config(self.model)
        return config.replace(**{"max_length": min(config.max_length, most), **given})

    def check_text(self, text: str, turns: Sequence[Turn]) -> None:
        """Check a question and its history, the lengths first: the rest reads every character.

        Raises:
            Refusal: 400, the question is empty, or they are too long or have control characters.
        """
        if len(turns) > (most := self.settings.max_history):
            message = f"The history has {len(turns)} rounds; at most {most} are read. Leave out the oldest."
            raise Refusal(400, message, code="history_too_long")
        length = len(text) + sum(len(turn.question) + len(turn.answer) for turn in turns)
        if length > (longest := self.settings.max_text):
            message = f"Question and history have {length:,} characters; at most {longest:,} are read. Shorten them."
            raise Refusal(400, message, code="text_too_long")
        if not text.strip():
            raise Refusal(400, "The question is empty. Ask something, also about a picture.", code="empty_question")
        check_characters([text, *(part for turn in turns for part in (turn.question, turn.answer))])

    async def start(self, question: Question, trace: Trace) -> Answering:
        """Take places for the answers, read the picture, and begin.

        Raises:
            Refusal: no place is free, the question is too long, or the request's time is over.
            VisualGLMError: the picture cannot be used.
        """
        self.check_text(question.text, question.turns)
        trace.answers, trace.streamed = len(question.configs), question.streamed
        trace.picture = question.picture is not None
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout
        slots = self.gate.enter(None if trace.key is None else str(trace.key), len(question.configs))
        try:
            picture = await self._read_picture(question.picture, deadline)
            return self._begin(question, picture, slots, deadline)
        finally:
            for slot in slots:
                slot.release()

    async def _read_picture(self, picture: PictureSource | None, deadline: float) -> object:
        if picture is None:
            return None
        assert self.model is not None  # requests are refused until it is loaded
        try:
            async with asyncio.timeout_at(deadline):
                return await self.pictures.read(picture, self.model.image_size)
        except TimeoutError:
            raise timed_out() from None

    def _begin(self, question: Question, picture: object, slots: Sequence[Slot], deadline: float) -> Answering:
        assert self.model is not None
        language = question_language(question.text, ENGLISH, question.turns)  # the original's default here
        conversation = Conversation(picture, list(question.turns), language)
        min_interval_s = 0.0 if question.stops else EVENT_S  # a stop string ends an answer at its very token
        write = partial(self.model.stream_answer, conversation, question.text, min_interval_s=min_interval_s)
        writes: list[Write] = [partial(write, config) for config in question.configs]
        answering = Answering(self.pool, writes, slots, question.stops, streamed=question.streamed, deadline=deadline)
        self.active.add(answering)
        return answering

    def finish(self, answering: Answering, question: Question, trace: Trace, texts: Sequence[str]) -> None:
        """Note what the answers of a request took; they end at once if they have not ended."""
        answering.cancel()
        self.active.discard(answering)
        usages = [usage for usage in answering.usages if usage is not None]
        trace.first_token_s = None if answering.first_s is None else round(answering.first_s, 4)
        trace.prompt_tokens = sum(usage.prompt_tokens for usage in usages)
        trace.answer_tokens = sum(usage.answer_tokens for usage in usages)
        trace.dropped_turns = max((usage.dropped_turns for usage in usages), default=0)
        self.metrics.note_answers(trace.prompt_tokens, trace.answer_tokens)
        for usage in usages:
            later = usage.answer_tokens - 1
            self.metrics.note_times(
                usage.first_token_s, (usage.total_s - usage.first_token_s) / later if later > 0 else None
            )
        if self.settings.log_text:
            trace.text = {"question": question.text, "answers": list(texts)}

    def explain(self, error: Exception, trace: Trace) -> Refusal:
        """Return what the client is told of an error; a bug goes into the log."""
        refusal = to_refusal(error, self.gate.retry_after)
        trace.error = type(error).__name__ if refusal is None else refusal.code
        if refusal is None or refusal.status_code == 500 or refusal.code == OVERLOADED:
            log("error", logging.ERROR, error, id=trace.id)
        return refusal or internal_error(trace.id)

    def close(self) -> None:
        """End the threads; answers that are still being written end at their next step."""
        for answering in list(self.active):
            answering.cancel()
        self.pictures.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

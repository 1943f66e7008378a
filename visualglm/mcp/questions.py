"""Answers questions about images for the tool, with limits on images, questions and concurrent calls."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from model import (
    CHINESE,
    ENGLISH,
    BusyError,
    ChatModel,
    Conversation,
    GenerationConfig,
    ImageError,
    Language,
    QuestionError,
    StreamChunk,
)
from model.images.decode import SERVED_FORMATS
from model.images.preprocess import ImageLimits
from model.prompt import question_language
from visualglm.image_reader import HTTP_URL, ImageReader, ImageSource

MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_QUESTION = 10_000  # characters
MAX_CALLS = 16  # calls at a time; more are rejected
DECODE_SECONDS = 10.0  # CPU time for an image
LIMITS = ImageLimits(max_bytes=MAX_IMAGE_BYTES, public_only=True, formats=SERVED_FORMATS)
LANGUAGES = {language.code: language for language in (CHINESE, ENGLISH)}
DATA_URL = re.compile(r"\s*data:", re.IGNORECASE)


def choose_language(question: str, language: str | None = None) -> Language:
    """Return the language of a call: its language argument if valid, else the language of the question."""
    return LANGUAGES[language] if language else question_language(question, ENGLISH)


@dataclass(frozen=True)
class LoadedModel:
    """A model that can answer, with the settings of its answers."""

    model: ChatModel
    config: GenerationConfig


class ImageQuestions:
    """Answers questions about images with one model. For use on one event loop.

    Args:
        loaded: the model, or the promise of a model that is being loaded.
        allow_urls: whether images are downloaded from http(s) URLs with public addresses.
    """

    def __init__(self, loaded: "LoadedModel | Future[LoadedModel]", *, allow_urls: bool = False) -> None:
        self.loaded: Future[LoadedModel]
        if isinstance(loaded, LoadedModel):
            self.loaded = Future()
            self.loaded.set_result(loaded)
        else:
            self.loaded = loaded
        self.allow_urls = allow_urls
        self.images = ImageReader(LIMITS, allow_urls=allow_urls, max_images=MAX_CALLS, seconds=DECODE_SECONDS)
        self.threads = ThreadPoolExecutor(MAX_CALLS, "answer")
        self.calls = 0

    async def answer(self, image: str, question: str, language: str | None = None) -> str:
        """Return the answer to a question about an image. Cancelling stops the generation.

        Args:
            image: a data URL or, if allowed, an http(s) URL.
            question: at most MAX_QUESTION characters.
            language: "zh" or "en", of the prompt; None for the question's language.

        Raises:
            VisualGLMError: the image or the question cannot be used, or too many calls are running.
        """
        self._check(image, question)
        if self.calls >= MAX_CALLS:
            raise BusyError(f"{self.calls} questions are being answered already. Try again a little later.")
        self.calls += 1
        try:
            # Shielded, because other calls wait for the same model.
            loaded = await asyncio.shield(asyncio.wrap_future(self.loaded))
            decoded = await self.images.read(ImageSource(image), loaded.model.image_size)
            conversation = Conversation(decoded, [], choose_language(question, language))
            return await self._generate(loaded.model.stream_answer(conversation, question, loaded.config))
        finally:
            self.calls -= 1

    def _check(self, image: str, question: str) -> None:
        if not question.strip():
            raise QuestionError("The question is empty. Ask a question about the image.")
        if len(question) > MAX_QUESTION:
            length = len(question)
            raise QuestionError(f"The question has {length:,} characters; at most {MAX_QUESTION:,} are allowed.")
        if not DATA_URL.match(image) and not HTTP_URL.match(image):
            raise ImageError(
                "The image is not a data URL (data:image/png;base64,...). Paths are not opened; send the image itself."
            )

    async def _generate(self, chunks: Iterator[StreamChunk]) -> str:
        """Return the complete answer, which a thread reads from the model."""
        cancelled = threading.Event()
        answer: Any = chunks
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, _join, chunks, cancelled)
        except asyncio.CancelledError:
            cancelled.set()
            with contextlib.suppress(ValueError):  # a generator cannot be closed while a thread executes it
                answer.close()
            raise

    def close(self) -> None:
        """Stop the threads and the processes that decode images."""
        self.images.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


def _join(chunks: Any, cancelled: threading.Event) -> str:
    """Return the text of all chunks, or of those before the cancellation."""
    texts = []
    with contextlib.closing(chunks):
        for chunk in chunks:
            if cancelled.is_set():
                break
            texts.append(chunk.text)
    return "".join(texts)

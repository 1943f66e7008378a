"""A replica: a loaded model in a process of its own, which answers, and explains answers, for the HTTP application."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from model import ChatModel, VisualGLMError
from visualglm.explanations import Explainer

from .outbox import BUNDLE_INTERVAL_S, Outbox
from .remote_model import describe_model
from .wire import LANGUAGES, pack_carrier, pack_error, pack_explanation, unpack_answer, unpack_question


@dataclass(frozen=True)
class ModelSettings:
    """Names a model and how to load it, in plain values that can be sent to another machine.

    Attributes:
        options: the flags of `visualglm.arguments.add_model_arguments` with their values.
        language: code of the prompts' language; None for the language of each question.
        hf: use the Hugging Face implementation.
        max_batch_size: answers that a replica generates at once.
        max_queue_size: answers that may wait in a replica.
    """

    options: dict[str, Any]
    language: str | None
    hf: bool
    max_batch_size: int
    max_queue_size: int

    @property
    def model_names(self) -> list[str]:
        """Names or directories of the model and of its base."""
        return [self.options[name] for name in ("from_pretrained", "base") if self.options.get(name)]

    def load(self) -> ChatModel:
        """Load the model."""
        from visualglm.arguments import choose_loader, load_model

        language = None if self.language is None else LANGUAGES[self.language]
        options = argparse.Namespace(**self.options, language=language)
        limits = {"max_batch_size": self.max_batch_size, "max_queue_size": self.max_queue_size}
        return load_model(options, partial(choose_loader(self.hf, None), **limits))


class ModelReplica:
    """A loaded model that answers packed questions, and explains packed answers, one at a time.

    Args:
        settings: the model.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.model = settings.load()
        self.model.warm_up()
        self.pool = ThreadPoolExecutor(settings.max_batch_size + settings.max_queue_size, "answer")
        self.outboxes: dict[str, Outbox] = {}
        self.explainer = Explainer()
        self.explaining = ThreadPoolExecutor(1, "explanation")

    async def describe(self) -> dict[str, Any]:
        """Return the attributes that a `RemoteChatModel` shows."""
        return describe_model(self.model)

    async def answer(self, client: str, number: int, question: bytes) -> AsyncIterator[bytes]:
        """Answer a packed question; see `channel` for the messages.

        The first message names the call that carries the chunks. If it is this one, bundles follow. Closing the
        iterator cancels the answer.

        Args:
            client: identifies the sender.
            number: of the answer, unique for the client.
            question: see `wire`.
        """
        chunks = self.start(question)
        outbox = self.outboxes.get(client)
        if outbox is None:
            outbox = self.outboxes[client] = Outbox(number)
        answer = outbox.open(number, chunks)
        self.pool.submit(answer.run)
        try:
            yield pack_carrier(outbox.carrier)
            if outbox.carrier == number:
                async for bundle in outbox.bundles():
                    yield bundle
            await answer.wait()
        finally:
            answer.close()
            if outbox.carrier == number:
                del self.outboxes[client]
                outbox.close()

    def start(self, question: bytes) -> Any:
        """Return the iterator over the chunks of the answer to a packed question."""
        conversation, text, config, min_interval_s = unpack_question(question)
        if min_interval_s:  # chunks that would leave in the same bundle cost more than one
            min_interval_s = max(min_interval_s, BUNDLE_INTERVAL_S)
        return self.model.stream_answer(conversation, text, config, min_interval_s=min_interval_s)

    async def stop(self, client: str, number: int) -> None:
        """Stop an answer, if this replica generates it."""
        outbox = self.outboxes.get(client)
        if outbox is not None and number in outbox.answers:
            outbox.answers[number].close()

    async def explain(self, answer: bytes) -> bytes:
        """Explain a packed answer; see `wire`. A call that is cancelled while it waits for others is dropped."""
        return await asyncio.get_running_loop().run_in_executor(self.explaining, self.compute_explanation, answer)

    def compute_explanation(self, answer: bytes) -> bytes:
        """Return the packed explanation of a packed answer, or the packed error."""
        try:
            return pack_explanation(self.explainer.explain(self.model, *unpack_answer(answer)))
        except VisualGLMError as error:
            return pack_error(error)

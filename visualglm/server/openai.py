"""`/v1/chat/completions` and `/v1/models`, in the protocol that today's clients speak."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from model import ENGLISH, GenerationConfig, StreamChunk, Usage

from .answering import Answering
from .messages import read_messages
from .parameters import refuse_unsupported
from .parsing import check_characters, describe_body
from .pictures import PictureSource
from .refusals import Refusal
from .replies import DONE, Pieces, answer_in_events, answer_whole, document_events, encode_json, event
from .schemas import HIGHEST_SEED, Completion, CompletionRequest, Model, Models, ProtocolError
from .service import Question, Service

SETTINGS = ("temperature", "top_p", "top_k", "repetition_penalty", "min_length", "max_length")
ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ProtocolError} for status in (400, 401, 403, 404, 408, 413, 429, 500, 503)
}
EVENTS = document_events("The answer; with stream as events of the kind chat.completion.chunk.")


@dataclass(frozen=True)
class Head:
    """What all parts of a response begin with."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, pieces: Sequence[StreamChunk]) -> dict[str, Any]:
        """Return the response that has the whole answers."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": None,
                "finish_reason": piece.finish_reason,
            }
            for number, piece in enumerate(pieces)
        ]
        usage = count([piece.usage for piece in pieces])
        return {**self._head("chat.completion"), "choices": choices, "usage": usage}

    def chunk(self, number: int, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        """Return the event of a part of one answer."""
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def around_text(self, number: int, **more: Any) -> tuple[bytes, bytes]:
        """Return what stands before and after the text, a JSON string, in the chunks of one answer."""
        before, after = self.chunk(number, {"content": ""}, **more).split(b'"content":""')
        return before + b'"content":', after

    def usage(self, usages: Sequence[Usage | None]) -> bytes:
        """Return the event with the token counts."""
        return event({**self._head("chat.completion.chunk"), "choices": [], "usage": count(usages)})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def count(usages: Sequence[Usage | None]) -> dict[str, int]:
    """Return the tokens of the prompt, which the answers share, and of all answers."""
    known = [usage for usage in usages if usage is not None]
    prompt = max((usage.prompt_tokens for usage in known), default=0)
    answers = sum(usage.answer_tokens for usage in known)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def make_router(service: Service) -> APIRouter:
    """Return the routes over `service`."""
    router = APIRouter(prefix="/v1")
    name = service.settings.model_name
    started = int(time.time())

    def describe() -> dict[str, Any]:
        knowledge = service.model.description.knowledge if service.model is not None else {}
        described = {"description": knowledge.get(ENGLISH.code)}
        return {"id": name, "object": "model", "created": started, "owned_by": "visualglm", **described}

    @router.get("/models/", include_in_schema=False)
    @router.get("/models", response_model=Models, responses={401: {"model": ProtocolError}})
    async def models() -> Any:
        """List the model."""
        return {"object": "list", "data": [describe()]}

    # The name of a model may have slashes.
    @router.get(
        "/models/{model:path}",
        response_model=Model,
        responses={status: {"model": ProtocolError} for status in (401, 404)},
    )
    async def retrieve(model: str) -> Any:
        """Describe the model."""
        check_model(model, name)
        return describe()

    @router.post(
        "/chat/completions",
        response_model=Completion,
        responses={**ERRORS, **EVENTS},
        openapi_extra=describe_body(CompletionRequest),
    )
    async def complete(request: Request) -> Response:
        """Answer the last message of a dialogue, which may be about a picture."""
        asked = await service.parser.read(request, CompletionRequest)
        question = to_question(asked, service)
        head = Head(name)
        if asked.stream:
            return await answer_in_events(request, service, question, partial(write_events, head, asked))
        return JSONResponse(head.whole(await answer_whole(request, service, question)))

    return router


async def write_events(
    head: Head, asked: CompletionRequest, pieces: AsyncIterator[Pieces], answering: Answering
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of all answers as they grow, then the token counts if they are asked for."""
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    counts_each = bool(with_usage and asked.stream_options and asked.stream_options.continuous_usage_stats)
    more: dict[str, Any] = {"usage": None} if with_usage else {}
    for number in range(asked.n or 1):
        yield head.chunk(number, {"role": "assistant", "content": ""}, **more)
    around = [head.around_text(number, **more) for number in range(asked.n or 1)]  # the same in all chunks
    async for together in pieces:
        for number, piece in together:
            if counts_each:
                more = {"usage": count(answering.usages)}
            if piece.text and counts_each:
                yield head.chunk(number, {"content": piece.text}, **more)
            elif piece.text:
                before, after = around[number]
                yield before + encode_json(piece.text).encode() + after
            if piece.finish_reason is not None:
                yield head.chunk(number, {}, piece.finish_reason, **more)
    if with_usage:
        yield head.usage(answering.usages)
    yield DONE


def to_question(asked: CompletionRequest, service: Service) -> Question:
    """Return what a request asks; the messages, one of which holds the picture, go from `asked`.

    Raises:
        Refusal, SettingError: it cannot be answered so.
    """
    check_model(asked.model, service.settings.model_name)
    refuse_unsupported(asked)
    text, turns, url = read_messages(asked.messages)
    asked.messages = []
    picture = None if url is None else PictureSource(url)
    del url
    stops = asked.stop or []
    check_characters(stops)
    return Question(text, turns, picture, choose_configs(asked, service), stops, bool(asked.stream))


def check_model(asked: str, name: str) -> None:
    """Check that a request is for the model that answers.

    Raises:
        Refusal: 404, it is for another.
    """
    if asked != name:
        message = f"There is no model {asked[:100]!r} here. The one that answers is {name!r}."
        raise Refusal(404, message, code="model_not_found", param="model")


def choose_configs(asked: CompletionRequest, service: Service) -> list[GenerationConfig]:
    """Return the settings of each answer; with a seed, that of each is one more than that of the one before.

    Raises:
        Refusal, SettingError: one makes no sense, or too many answers are asked for.
    """
    count, most = asked.n or 1, service.settings.max_choices
    if count > most:
        raise Refusal(400, f"n is {count}; this server gives at most {most} answers.", code="invalid_value", param="n")
    limit = asked.max_completion_tokens or asked.max_tokens
    config = service.choose_config(max_new_tokens=limit, **{name: getattr(asked, name) for name in SETTINGS})
    if asked.seed is None:
        return [config] * count
    return [config.replace(seed=(asked.seed + number) % (HIGHEST_SEED + 1)) for number in range(count)]

"""The routes `/v1/chat/completions` and `/v1/models`, in OpenAI's protocol."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from model import ENGLISH, GenerationConfig, ScoredToken, StreamChunk, Usage
from model.engine.config import MAX_SEED

from ..image_reader import ImageSource
from .api_errors import ApiError
from .generation import GenerationTask
from .messages import read_messages
from .parameters import check_parameters
from .parsing import check_characters, describe_body
from .replies import (
    DONE_EVENT,
    ChunkBatch,
    answer_complete,
    answer_streamed,
    describe_event_stream,
    encode_json,
    format_event,
)
from .schemas import SETTINGS, Completion, CompletionRequest, Model, Models, ProtocolError
from .service import Question, Service

ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ProtocolError} for status in (400, 401, 403, 404, 408, 413, 429, 500, 503)
}
LEAST_LOGPROB = -9999.0  # OpenAI's value for very unlikely tokens; JSON has no infinity
EVENTS = describe_event_stream("The answer; with stream, events of type chat.completion.chunk.")


@dataclass(frozen=True)
class ResponseEnvelope:
    """The fields that a completion and all its chunks share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, chunks: Sequence[StreamChunk], with_logprobs: bool, more: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response body with the complete answers; `more` are further fields of each."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": chunk.text, "refusal": None},
                "logprobs": format_logprobs(chunk.logprobs) if with_logprobs else None,
                "finish_reason": chunk.finish_reason,
                **more,
            }
            for index, chunk in enumerate(chunks)
        ]
        usage = sum_usages([chunk.usage for chunk in chunks])
        return {**self._envelope("chat.completion"), "choices": choices, "usage": usage}

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        explanation: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        """Return the event for a chunk of one answer.

        Args:
            explanation: the field `explanation` of the choice; None or empty without it.
            more: further fields of the event.
        """
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        choice |= explanation or {}
        return format_event({**self._envelope("chat.completion.chunk"), "choices": [choice], **more})

    def split_around_text(self, index: int, **more: Any) -> tuple[bytes, bytes]:
        """Return the bytes before and after the JSON string of the text in the chunk events of one answer."""
        before, after = self.chunk(index, {"content": ""}, **more).split(b'"content":""')
        return before + b'"content":', after

    def usage_chunk(self, usages: Sequence[Usage | None]) -> bytes:
        """Return the event with the token counts."""
        return format_event({**self._envelope("chat.completion.chunk"), "choices": [], "usage": sum_usages(usages)})

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def explanation_field(body: CompletionRequest, explanation: dict[str, Any] | None) -> dict[str, Any]:
    """Return the field of a choice that holds the explanation, if the request asks for it."""
    return {"explanation": explanation} if body.explain else {}


def format_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """Return the log-probabilities of an answer's tokens in the protocol's form."""
    content = [{**format_token(token), "top_logprobs": [*map(format_token, token.top)]} for token in tokens]
    return {"content": content, "refusal": None}


def format_token(token: ScoredToken) -> dict[str, Any]:
    """Return one token with its log-probability in the protocol's form."""
    return {"token": token.text, "logprob": max(token.logprob, LEAST_LOGPROB), "bytes": [*token.bytes]}


def sum_usages(usages: Sequence[Usage | None]) -> dict[str, int]:
    """Return the token counts: the prompt once, because the answers share it, and the sum of all answers."""
    known = [usage for usage in usages if usage is not None]
    prompt = max((usage.prompt_tokens for usage in known), default=0)
    answers = sum(usage.answer_tokens for usage in known)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


def make_router(service: Service) -> APIRouter:
    """Return the router with the routes under /v1."""
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
        """List the served model."""
        return {"object": "list", "data": [describe()]}

    # `:path` because the name of a model may contain slashes.
    @router.get(
        "/models/{model:path}",
        response_model=Model,
        responses={status: {"model": ProtocolError} for status in (401, 404)},
    )
    async def retrieve(model: str) -> Any:
        """Return the model's entry of /v1/models."""
        check_model(model, name)
        return describe()

    @router.post(
        "/chat/completions",
        response_model=Completion,
        responses={**ERRORS, **EVENTS},
        openapi_extra=describe_body(CompletionRequest),
    )
    async def complete(request: Request) -> Response:
        """Answer the last message of a conversation, with or without an image."""
        body = await service.parser.read(request, CompletionRequest)
        question = to_question(body, service)
        envelope = ResponseEnvelope(name)
        if body.stream:
            return await answer_streamed(request, service, question, partial(format_events, envelope, body))
        answers, explanation = await answer_complete(request, service, question)
        return JSONResponse(envelope.completion(answers, bool(body.logprobs), explanation_field(body, explanation)))

    return router


async def format_events(
    envelope: ResponseEnvelope, body: CompletionRequest, chunks: AsyncIterator[ChunkBatch], task: GenerationTask
) -> AsyncGenerator[bytes, None]:
    """Yield the chunk events of all answers, then the token counts if the request includes them."""
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    counts_each = bool(with_usage and body.stream_options and body.stream_options.continuous_usage_stats)
    more: dict[str, Any] = {"usage": None} if with_usage else {}
    for index in range(body.n or 1):
        yield envelope.chunk(index, {"role": "assistant", "content": ""}, **more)
    # Identical in all chunks, so computed once.
    around = [envelope.split_around_text(index, **more) for index in range(body.n or 1)]
    async for batch in chunks:
        for index, chunk in batch:
            if counts_each:
                more = {"usage": sum_usages(task.usages)}
            if body.logprobs and (chunk.text or chunk.logprobs):
                yield envelope.chunk(index, {"content": chunk.text}, None, format_logprobs(chunk.logprobs), **more)
            elif chunk.text and counts_each:
                yield envelope.chunk(index, {"content": chunk.text}, **more)
            elif chunk.text:
                before, after = around[index]
                yield before + encode_json(chunk.text).encode() + after
            if chunk.finish_reason is not None:
                explanation = explanation_field(body, task.explanation)
                yield envelope.chunk(index, {}, chunk.finish_reason, explanation=explanation, **more)
    if with_usage:
        yield envelope.usage_chunk(task.usages)
    yield DONE_EVENT


def to_question(body: CompletionRequest, service: Service) -> Question:
    """Convert a request to a question. The messages are removed from `body`, so that the image's text can be freed.

    Raises:
        ApiError, SettingError: a value of the request is invalid.
    """
    check_model(body.model, service.settings.model_name)
    check_parameters(body)
    text, turns, url = read_messages(body.messages)
    body.messages = []
    image = None if url is None else ImageSource(url)
    del url
    stop_strings = body.stop or []
    check_characters(stop_strings)
    configs = choose_configs(body, service)
    return Question(text, turns, image, configs, stop_strings, bool(body.stream), body.explain or False)


def check_model(requested: str, served: str) -> None:
    """Check that a request names the served model.

    Raises:
        ApiError: 404, it names another model.
    """
    if requested != served:
        message = f"The model {requested[:100]!r} does not exist here. The served model is {served!r}."
        raise ApiError(404, message, code="model_not_found", param="model")


def choose_configs(body: CompletionRequest, service: Service) -> list[GenerationConfig]:
    """Return the generation settings of each answer; with a seed, answer i has seed + i.

    Raises:
        ApiError, SettingError: a value is invalid, or `n` exceeds the server's limit.
    """
    count, limit = body.n or 1, service.settings.max_choices
    if count > limit:
        message = f"n is {count}; this server allows at most {limit} answers."
        raise ApiError(400, message, code="invalid_value", param="n")
    max_new_tokens = body.max_completion_tokens or body.max_tokens
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    config = service.choose_config(
        max_new_tokens=max_new_tokens,
        top_logprobs=top_logprobs,
        **{name: getattr(body, name) for name in SETTINGS},
    )
    if body.seed is None:
        return [config] * count
    return [config.replace(seed=(body.seed + index) % (MAX_SEED + 1)) for index in range(count)]

"""The route `POST /`, in the original's protocol."""

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from model.prompt import to_turns

from ..image_reader import ImageSource
from .api_errors import local_time
from .generation import GenerationTask
from .parsing import describe_body
from .replies import ChunkBatch, answer_complete, answer_streamed, describe_event_stream, format_event
from .schemas import SETTINGS, NativeAnswer, NativeError, NativeRequest
from .service import Question, Service

ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": NativeError} for status in (400, 401, 403, 408, 413, 429, 500, 503)
}
EVENTS = describe_event_stream(
    'The answer; with "stream", events {"delta": new text} and then an event with the complete answer.'
)


def make_router(service: Service) -> APIRouter:
    """Return the router with the route `POST /`."""
    router = APIRouter()

    @router.post(
        "/", response_model=NativeAnswer, responses={**ERRORS, **EVENTS}, openapi_extra=describe_body(NativeRequest)
    )
    async def ask(request: Request) -> Response:
        """Answer a question, with or without an image."""
        body = await service.parser.read(request, NativeRequest)
        question = to_question(body, service)
        if body.stream:
            return await answer_streamed(request, service, question, partial(format_events, body))
        (chunk,), explanation = await answer_complete(request, service, question)
        return JSONResponse(answer_body(body, chunk.text, explanation))

    return router


async def format_events(
    body: NativeRequest, chunks: AsyncIterator[ChunkBatch], task: GenerationTask
) -> AsyncGenerator[bytes, None]:
    """Yield an event for each chunk, then one with the complete answer."""
    text = ""
    async for ((_index, chunk),) in chunks:
        text += chunk.text
        yield format_event({"delta": chunk.text})
    yield format_event(answer_body(body, text, task.explanation))


def to_question(body: NativeRequest, service: Service) -> Question:
    """Convert a request to a question. The image is moved out of `body`, so that its text can be freed.

    Raises:
        ApiError, QuestionError, SettingError: a value of the request is invalid.
    """
    turns = to_turns(body.history)
    config = service.choose_config(**{name: getattr(body, name) for name in (*SETTINGS, "max_new_tokens")})
    image = ImageSource(body.image) if body.image else None
    body.image = None
    return Question(body.text, turns, image, [config], streamed=bool(body.stream), explain=body.explain or False)


def answer_body(body: NativeRequest, text: str, explanation: dict[str, Any] | None) -> dict[str, object]:
    """Return the response body in the original's format, with the explanation if the request asks for it."""
    history = [*([turn.question, turn.answer] for turn in to_turns(body.history)), [body.text, text]]
    answer = {"response": text, "result": text, "history": history, "status": 200, "time": local_time()}
    return answer | ({"explanation": explanation} if body.explain else {})

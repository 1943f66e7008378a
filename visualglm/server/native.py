"""`POST /`, as the original documents it."""

from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from model.prompt import to_turns

from .answering import Answering
from .parsing import describe_body
from .pictures import PictureSource
from .refusals import now
from .replies import Pieces, answer_in_events, answer_whole, document_events, event
from .schemas import NativeAnswer, NativeError, NativeRequest
from .service import Question, Service

SETTINGS = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "top_p",
    "top_k",
    "temperature",
    "repetition_penalty",
    "seed",
)
ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": NativeError} for status in (400, 401, 403, 408, 413, 429, 500, 503)
}
EVENTS = document_events('The answer; with "stream" as events {"delta": what is new}, and then all of it.')


def make_router(service: Service) -> APIRouter:
    """Return the route over `service`."""
    router = APIRouter()

    @router.post(
        "/", response_model=NativeAnswer, responses={**ERRORS, **EVENTS}, openapi_extra=describe_body(NativeRequest)
    )
    async def ask(request: Request) -> Response:
        """Answer a question about a picture, or one without."""
        asked = await service.parser.read(request, NativeRequest)
        question = to_question(asked, service)
        if asked.stream:
            return await answer_in_events(request, service, question, partial(write_events, asked))
        (piece,) = await answer_whole(request, service, question)
        return JSONResponse(describe_answer(asked, piece.text))

    return router


async def write_events(
    asked: NativeRequest, pieces: AsyncIterator[Pieces], _: Answering
) -> AsyncGenerator[bytes, None]:
    """Yield an event for each piece, and at the end one with the whole answer."""
    text = ""
    async for ((_number, piece),) in pieces:
        text += piece.text
        yield event({"delta": piece.text})
    yield event(describe_answer(asked, text))


def to_question(asked: NativeRequest, service: Service) -> Question:
    """Return what a request asks; the picture moves from `asked` into it.

    Raises:
        Refusal, QuestionError, SettingError: it cannot be answered so.
    """
    turns = to_turns(asked.history)
    config = service.choose_config(**{name: getattr(asked, name) for name in SETTINGS})
    picture = PictureSource(asked.image) if asked.image else None
    asked.image = None
    return Question(asked.text, turns, picture, [config], streamed=bool(asked.stream))


def describe_answer(asked: NativeRequest, text: str) -> dict[str, object]:
    """Return the original's kind of answer."""
    history = [*([turn.question, turn.answer] for turn in to_turns(asked.history)), [asked.text, text]]
    return {"response": text, "result": text, "history": history, "status": 200, "time": now()}

"""Answer a question that a route has understood, whole or as a stream of events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model import StreamChunk

from .answering import Answering, collect
from .refusals import describe
from .service import Question, Service
from .trace import Trace

T = TypeVar("T")
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE = b"data: [DONE]\n\n"
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ClientGone(Exception):  # noqa: N818  (nobody's error)
    """The client has closed the connection."""


def event(data: Any) -> bytes:
    """Return a server-sent event with `data` as JSON."""
    return b"data: " + encode_json(data).encode() + b"\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it is cancelled when the client leaves.

    Raises:
        ClientGone: the client has left.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events.

    Args:
        events: the events' bytes; closed when the client has left.
        timeout: seconds after which a client that does not read is left alone.
        at_end: is called in any case, also where the client has left before the first event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], timeout: float, at_end: Callable[[], None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.events = events
        self.timeout = timeout
        self.at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):
            try:
                async with asyncio.timeout(self.timeout):
                    await unless_gone(receive, self.send_all(send))
            except TimeoutError:
                raise ClientGone from None
            finally:
                self.at_end()

    async def send_all(self, send: Send) -> None:
        """Send the events as they come."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self.events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


Pieces = list[tuple[int, StreamChunk]]  # the number of an answer, what is new in it
Write = Callable[[AsyncIterator[Pieces], Answering], AsyncGenerator[bytes, None]]


def document_events(description: str) -> dict[int | str, dict[str, object]]:
    """Return what the OpenAPI document says of an answer that may be streamed."""
    fields = {"data": {"type": "string", "contentMediaType": "application/json"}}
    schema = {"type": "object", "properties": fields, "required": ["data"]}
    return {200: {"description": description, "content": {"text/event-stream": {"schema": schema}}}}


async def answer_whole(request: Request, service: Service, question: Question) -> list[StreamChunk]:
    """Return the answers to a question, each whole.

    Raises:
        ClientGone: the client has left before; the answers are cancelled.
    """
    trace: Trace = request.state.trace
    answering = await unless_gone(request.receive, service.start(question, trace))
    request.state.body.release()
    whole: list[StreamChunk] = []
    try:
        whole = await unless_gone(request.receive, collect(answering))
    finally:
        service.finish(answering, question, trace, [piece.text for piece in whole])
    trace.finish_reasons = [str(piece.finish_reason) for piece in whole]
    return whole


async def answer_in_events(request: Request, service: Service, question: Question, write: Write) -> EventStream:
    """Return the answers to a question as a stream of the events that `write` makes of what comes.

    What goes wrong before the first piece is raised, so that the response has its status.
    """
    trace: Trace = request.state.trace
    answering = await unless_gone(request.receive, service.start(question, trace))
    request.state.body.release()
    growing = Growing(service, question, trace, answering)
    try:
        await unless_gone(request.receive, growing.begin())
    except BaseException:
        growing.finish()
        raise
    return EventStream(growing.write(write), 2 * service.settings.request_timeout, growing.finish)


class Growing:
    """Answers that are sent while they are written.

    Args:
        service: where their end is noted.
        question: what they answer.
        trace: of the request.
        answering: writes them.
    """

    def __init__(self, service: Service, question: Question, trace: Trace, answering: Answering) -> None:
        self.service = service
        self.question = question
        self.trace = trace
        self.answering = answering
        self.events = answering.events()
        self.first: Pieces = []
        self.texts = [""] * len(question.configs)

    async def begin(self) -> None:
        """Wait for the first pieces, or raise what has come instead."""
        self.first = await anext(self.events)

    async def write(self, write: Write) -> AsyncGenerator[bytes, None]:
        """Yield the events that `write` makes of the pieces; an error becomes the last."""
        try:
            async with aclosing(write(self.pieces(), self.answering)) as lines:
                async for line in lines:
                    yield line
        except Exception as error:
            yield event(describe(self.service.explain(error, self.trace), self.trace.path, self.trace.id))

    async def pieces(self) -> AsyncIterator[Pieces]:
        """Yield the pieces, noted."""
        async with aclosing(self.events):
            self.note(self.first)
            yield self.first
            async for pieces in self.events:
                self.note(pieces)
                yield pieces

    def note(self, pieces: Pieces) -> None:
        """Note the text of pieces, and why an answer has ended."""
        for number, piece in pieces:
            self.texts[number] += piece.text
            self.trace.finish_reasons += [piece.finish_reason] if piece.finish_reason else []

    def finish(self) -> None:
        """Note what the answers took."""
        self.service.finish(self.answering, self.question, self.trace, self.texts)

"""Send the answers to a question, as one JSON response or as server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model import StreamChunk

from .api_errors import error_body
from .generation import GenerationTask, collect_answers
from .request_log import RequestRecord
from .service import Question, Service

T = TypeVar("T")
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE_EVENT = b"data: [DONE]\n\n"
encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class ClientDisconnected(Exception):  # noqa: N818  (not an error of the server)
    """Raised when the client closes the connection."""


def format_event(data: Any) -> bytes:
    """Return a server-sent event with `data` as JSON."""
    return b"data: " + encode_json(data).encode() + b"\n\n"


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it if the client disconnects first.

    Raises:
        ClientDisconnected: the client disconnected.
    """
    task, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStreamResponse(Response):
    """A response of server-sent events.

    Args:
        events: the events' bytes; closed when the client disconnects.
        timeout: seconds until the response is aborted, for clients that stop reading.
        on_close: called when the response ends, even if the client disconnects before the first event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], timeout: float, on_close: Callable[[], None]) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self.events = events
        self.timeout = timeout
        self.on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.events):
            try:
                async with asyncio.timeout(self.timeout):
                    await cancel_on_disconnect(receive, self.send_events(send))
            except TimeoutError:
                raise ClientDisconnected from None
            finally:
                self.on_close()

    async def send_events(self, send: Send) -> None:
        """Send each event when it is available."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self.events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


ChunkBatch = list[tuple[int, StreamChunk]]  # (index of the answer, its new text), at most one for each answer
FormatEvents = Callable[[AsyncIterator[ChunkBatch], GenerationTask], AsyncGenerator[bytes, None]]


def describe_event_stream(description: str) -> dict[int | str, dict[str, object]]:
    """Return the OpenAPI description of a route's streamed response."""
    fields = {"data": {"type": "string", "contentMediaType": "application/json"}}
    schema = {"type": "object", "properties": fields, "required": ["data"]}
    return {200: {"description": description, "content": {"text/event-stream": {"schema": schema}}}}


async def answer_complete(
    request: Request, service: Service, question: Question
) -> tuple[list[StreamChunk], dict[str, Any] | None]:
    """Generate the answers to a question; return each as one chunk with its complete text, and the explanation.

    Raises:
        ClientDisconnected: the client disconnected; generation is cancelled.
    """
    record: RequestRecord = request.state.record
    task = await cancel_on_disconnect(request.receive, service.start(question, record))
    request.state.body.release()
    answers: list[StreamChunk] = []
    try:
        answers = await cancel_on_disconnect(request.receive, collect_answers(task))
    finally:
        service.finish(task, question, record, [answer.text for answer in answers])
    record.finish_reasons = [str(answer.finish_reason) for answer in answers]
    return answers, task.explanation


async def answer_streamed(
    request: Request, service: Service, question: Question, format_chunks: FormatEvents
) -> EventStreamResponse:
    """Generate the answers to a question; return a response that streams them.

    Errors before the first chunk are raised here, so that the response can have their status.

    Args:
        format_chunks: converts chunks to the protocol's events.
    """
    record: RequestRecord = request.state.record
    task = await cancel_on_disconnect(request.receive, service.start(question, record))
    request.state.body.release()
    reply = StreamingReply(service, question, record, task)
    try:
        await cancel_on_disconnect(request.receive, reply.wait_for_first_chunk())
    except BaseException:
        reply.finish()
        raise
    return EventStreamResponse(reply.events(format_chunks), 2 * service.settings.request_timeout, reply.finish)


class StreamingReply:
    """Answers that are sent while they are generated.

    Args:
        service: records the usage at the end.
        question: the question that is answered.
        record: the request's log record.
        task: generates the answers.
    """

    def __init__(self, service: Service, question: Question, record: RequestRecord, task: GenerationTask) -> None:
        self.service = service
        self.question = question
        self.record = record
        self.task = task
        self.batches = task.events()
        self.first: ChunkBatch = []
        self.texts = [""] * len(question.configs)

    async def wait_for_first_chunk(self) -> None:
        """Wait for the first chunk of any answer; raise the error that comes instead of it."""
        self.first = await anext(self.batches)

    async def events(self, format_chunks: FormatEvents) -> AsyncGenerator[bytes, None]:
        """Yield the events that `format_chunks` makes of the chunks; report an error as the last event."""
        try:
            async with aclosing(format_chunks(self.recorded_chunks(), self.task)) as lines:
                async for line in lines:
                    yield line
        except Exception as error:
            reported = self.service.report_error(error, self.record)
            yield format_event(error_body(reported, self.record.path, self.record.id))

    async def recorded_chunks(self) -> AsyncIterator[ChunkBatch]:
        """Yield the chunks; record the text and the finish reason of each."""
        async with aclosing(self.batches):
            self.record_chunks(self.first)
            yield self.first
            async for batch in self.batches:
                self.record_chunks(batch)
                yield batch

    def record_chunks(self, batch: ChunkBatch) -> None:
        """Record the text and the finish reasons of chunks."""
        for index, chunk in batch:
            self.texts[index] += chunk.text
            self.record.finish_reasons += [chunk.finish_reason] if chunk.finish_reason else []

    def finish(self) -> None:
        """Record the usage of the answers."""
        self.service.finish(self.task, self.question, self.record, self.texts)

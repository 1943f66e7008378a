"""What both kinds of question share on their way in and out."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from model import Piece

from .answering import Answering, collect
from .refusals import Refusal, describe
from .service import Question, Service
from .streams import ClientGone, EventStream, event, unless_gone
from .trace import Trace

FORBIDDEN = {chr(code) for code in range(32)} - {"\t", "\n", "\r"}
Events = list[tuple[int, Piece]]


class LenientRequest(Request):
    """A request whose body is JSON whatever its Content-Type says, with line breaks in its strings or without.

    The original read bodies so, and its users' shell lines put base64 text with line breaks into them.
    """

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            Refusal: 400, it is not JSON, or not Unicode text.
        """
        return parse_json(await self.body())


class JsonRoute(APIRoute):
    """A route that reads its body as `LenientRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def handle_leniently(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handle(LenientRequest(scope, request.receive))

        return handle_leniently


def parse_json(body: bytes) -> Any:
    """Return what a body says.

    Raises:
        Refusal: 400, it is not JSON, or not Unicode text.
    """
    try:
        data = json.loads(
            body.decode("utf-8-sig"), strict=False, parse_float=_to_number, parse_constant=_refuse_constant
        )
        if b"\\u" in body:  # escapes may make halves of characters, which no text has
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except RecursionError as error:
        raise Refusal(400, "The body is nested too deeply.", code="json_invalid") from error
    except UnicodeError as error:
        raise Refusal(400, "The body is not Unicode text. Send JSON in UTF-8.", code="json_invalid") from error
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise Refusal(400, f"The body is not JSON: {reason}.", code="json_invalid") from error


def _to_number(text: str) -> int | float:
    """Return 3 for 3.0, as JSON knows one kind of number."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def check_characters(texts: Sequence[str]) -> None:
    """Check that texts have no control characters but tabs and line breaks.

    Raises:
        Refusal: 400, one has.
    """
    if any(not FORBIDDEN.isdisjoint(text) for text in texts):
        raise Refusal(400, "The text has control characters, such as a null byte. Leave them out.", code="invalid_text")


def document_events(description: str) -> dict[int | str, dict[str, object]]:
    """Return what the OpenAPI document says of an answer that may be streamed."""
    fields = {"data": {"type": "string", "contentMediaType": "application/json"}}
    schema = {"type": "object", "properties": fields, "required": ["data"]}
    return {200: {"description": description, "content": {"text/event-stream": {"schema": schema}}}}


async def answer_whole(request: Request, service: Service, question: Question) -> tuple[list[Piece], Answering]:
    """Return the answers to a question, each whole, and what they took.

    Raises:
        ClientGone: the client has left before; the answers are cancelled.
    """
    trace: Trace = request.state.trace
    answering = await unless_gone(request.receive, service.start(question, trace))
    pieces: list[Piece] = []
    try:
        pieces = await unless_gone(request.receive, collect(answering))
    finally:
        service.finish(answering, question, trace, [piece.text for piece in pieces])
    trace.finish_reasons = [str(piece.finish_reason) for piece in pieces]
    return pieces, answering


async def answer_in_events(
    request: Request,
    service: Service,
    question: Question,
    write: Callable[[AsyncIterator[Events], Answering], AsyncGenerator[bytes, None]],
) -> EventStream:
    """Return the answers to a question as a stream of events, which `write` makes of what comes.

    What goes wrong before the first piece is raised, so that the response has its status.
    """
    trace: Trace = request.state.trace
    answering = await unless_gone(request.receive, service.start(question, trace))
    texts = [""] * len(question.configs)
    events = answering.events()
    try:
        first = await unless_gone(request.receive, anext(events))
    except BaseException:
        service.finish(answering, question, trace, texts)
        raise

    async def noted() -> AsyncIterator[Events]:
        async with aclosing(events):
            yield note(first)
            async for event in events:
                yield note(event)

    def note(event: Events) -> Events:
        for number, piece in event:
            texts[number] += piece.text
            trace.finish_reasons += [piece.finish_reason] if piece.finish_reason else []
        return event

    async def written() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(write(noted(), answering)) as lines:
                async for line in lines:
                    yield line
        except (ClientGone, GeneratorExit):
            raise
        except Exception as error:
            yield event(describe(service.explain(error, trace), trace.path, trace.id))
        finally:
            service.finish(answering, question, trace, texts)

    return EventStream(written(), 2 * service.settings.request_timeout)

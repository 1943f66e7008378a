"""A request's body -> what it says, or a refusal; read as leniently as the original reads it."""

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from .refusals import Refusal

FORBIDDEN = {chr(code) for code in range(32)} - {"\t", "\n", "\r"}


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

"""Parse and validate request bodies, as leniently as the original server does."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from .api_errors import ApiError, validation_error

CONTROL_CHARACTERS = {chr(code) for code in range(32)} - {"\t", "\n", "\r"}
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
# ASCII characters that `check_complexity` does not count: all but structural characters and backslashes.
UNCOUNTED_BYTES = bytes(set(range(128)) - set(b",:[{\\"))
MAX_UTF8_BYTES = 4  # of a character
CHARACTERS_PER_ESCAPE = 32  # of base64 text: some clients escape slashes and line breaks in it
Schema = TypeVar("Schema", bound=BaseModel)


class BodyParser:
    """Parses request bodies, one at a time, because `json` holds the GIL for up to 0.1 s.

    FastAPI's own parsing would keep the body and its parsed form, several times the image's size, until the answer is
    complete.

    Args:
        max_tokens: maximum of commas, colons and opening brackets in a body.
        max_text: maximum characters of a question with its history.
    """

    def __init__(self, max_tokens: int, max_text: int) -> None:
        self.max_tokens = max_tokens
        self.max_text = max_text
        self.lock = asyncio.Lock()

    async def read(self, request: Request, schema: type[Schema]) -> Schema:
        """Parse a request's body and validate it with `schema`. The Content-Type is ignored.

        Raises:
            ApiError: 400, the body is not JSON, is too complex, or violates the schema.
        """
        body = b"".join([part async for part in request.stream()])
        async with self.lock:
            await asyncio.sleep(0)  # lets other requests proceed between two large bodies
            self.check_complexity(body)
            try:
                return schema.model_validate(parse_json(body))
            except ValidationError as error:
                raise validation_error(
                    error.errors(include_url=False, include_context=False, include_input=False)
                ) from None

    def check_complexity(self, body: bytes) -> None:
        """Check a body's number of values and length of text before parsing: a 2-byte value takes 60 bytes in memory.

        Raises:
            ApiError: 400, the body may have too many values or too much text.
        """
        marks = body.translate(None, UNCOUNTED_BYTES)
        tokens = sum(map(marks.count, (b",", b":", b"[", b"{")))
        if tokens > self.max_tokens:
            message = (
                f"The request has {tokens:,} commas, colons and brackets; the limit is {self.max_tokens:,}. Shorten it."
            )
            raise ApiError(400, message, code="json_too_complex")
        escapes = marks.count(b"\\")
        others = (len(marks) - tokens - escapes) // MAX_UTF8_BYTES
        if max(escapes - len(body) // CHARACTERS_PER_ESCAPE, others) > self.max_text:
            message = f"The text of the request has more than {self.max_text:,} characters. Shorten it."
            raise ApiError(400, message, code="text_too_long")


def describe_body(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a request body that a `BodyParser` reads."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def parse_json(body: bytes) -> Any:
    """Parse JSON. Strings may contain line breaks, because many clients send base64 text with them.

    Raises:
        ApiError: 400, the body is not JSON, or not valid Unicode.
    """
    try:
        data = json.loads(
            body.decode("utf-8-sig"), strict=False, parse_float=_to_number, parse_constant=_reject_constant
        )
        if SURROGATE_ESCAPE.search(body):  # a lone surrogate, unless its pair follows
            json.dumps(data, ensure_ascii=False).encode()
        return data
    except RecursionError as error:
        raise ApiError(400, "The body is nested too deeply.", code="json_invalid") from error
    except UnicodeError as error:
        raise ApiError(400, "The body is not Unicode text. Send JSON in UTF-8.", code="json_invalid") from error
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ApiError(400, f"The body is not JSON: {reason}.", code="json_invalid") from error


def _to_number(text: str) -> int | float:
    """Convert a number; return 3 for 3.0, because JSON does not distinguish integers from floats."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def check_characters(texts: Sequence[str]) -> None:
    """Check that texts contain no control characters other than tabs and line breaks.

    Raises:
        ApiError: 400, a text contains one.
    """
    if any(not CONTROL_CHARACTERS.isdisjoint(text) for text in texts):
        raise ApiError(
            400, "The text contains control characters, such as a null byte. Remove them.", code="invalid_text"
        )

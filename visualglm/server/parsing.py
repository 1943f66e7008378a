"""Parse and validate a request's body, as leniently as the original reads it, or refuse it."""

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
# What is not counted in a body: all ASCII but the marks of its structure, and the escapes of its strings.
UNCOUNTED_BYTES = bytes(set(range(128)) - set(b",:[{\\"))
MAX_UTF8_BYTES = 4  # of a character
CHARACTERS_PER_ESCAPE = 32  # of base64 text, in which some clients escape slashes and line breaks
Schema = TypeVar("Schema", bound=BaseModel)


class BodyParser:
    """Parses the bodies of requests, one at a time: `json` holds Python's lock for up to 0.1 s.

    FastAPI would keep the body and its parsed form until the answer is complete: several times the picture's size.

    Args:
        most_tokens: the most commas, colons and opening brackets of a body.
        max_text: the most characters of a question with its history.
    """

    def __init__(self, max_tokens: int, max_text: int) -> None:
        self.max_tokens = max_tokens
        self.max_text = max_text
        self.lock = asyncio.Lock()

    async def read(self, request: Request, schema: type[Schema]) -> Schema:
        """Return a request's body as `schema` has it, whatever its Content-Type says.

        Raises:
            Refusal: 400, it is not JSON, too complex, or not as the schema says.
        """
        body = b"".join([part async for part in request.stream()])
        async with self.lock:
            await asyncio.sleep(0)  # other requests go on between two large bodies
            self.check_complexity(body)
            try:
                return schema.model_validate(parse_json(body))
            except ValidationError as error:
                raise validation_error(
                    error.errors(include_url=False, include_context=False, include_input=False)
                ) from None

    def check_complexity(self, body: bytes) -> None:
        """Check what a body may hold before it is parsed: a value of two bytes takes 60 in memory.

        Raises:
            Refusal: 400, it may hold too many values, or more text than is read.
        """
        marks = body.translate(None, UNCOUNTED_BYTES)
        tokens = sum(map(marks.count, (b",", b":", b"[", b"{")))
        if tokens > self.max_tokens:
            message = f"The request has {tokens:,} commas, colons and brackets; at most {self.max_tokens:,} are read."
            raise ApiError(400, f"{message} Shorten it.", code="json_too_complex")
        escapes = marks.count(b"\\")
        others = (len(marks) - tokens - escapes) // MAX_UTF8_BYTES
        if max(escapes - len(body) // CHARACTERS_PER_ESCAPE, others) > self.max_text:
            message = f"The request has more text than the {self.max_text:,} characters that are read. Shorten it."
            raise ApiError(400, message, code="text_too_long")


def describe_body(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the part of a route's OpenAPI document that tells of its body, which a `BodyParser` reads."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text. Its strings may have line breaks: many clients send base64 text so.

    Raises:
        Refusal: 400, it is not JSON, or not Unicode text.
    """
    try:
        data = json.loads(
            body.decode("utf-8-sig"), strict=False, parse_float=_to_number, parse_constant=_refuse_constant
        )
        if SURROGATE_ESCAPE.search(body):  # half a character, unless its other half follows
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
    if any(not CONTROL_CHARACTERS.isdisjoint(text) for text in texts):
        raise ApiError(
            400, "The text has control characters, such as a null byte. Leave them out.", code="invalid_text"
        )

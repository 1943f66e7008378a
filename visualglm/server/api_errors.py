"""What goes wrong with a request -> a status, a message for a person, and the shape that its protocol wants."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from model import (
    BusyError,
    GenerationError,
    ImageError,
    PromptTooLongError,
    QuestionError,
    SettingError,
    VisualGLMError,
)
from model.resource_errors import find_resource_error

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
ERROR_CODES = {
    ImageError: "invalid_image",
    PromptTooLongError: "context_length_exceeded",
    QuestionError: "invalid_question",
    SettingError: "invalid_value",
}
OVERLOADED = "overloaded"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class ApiError(HTTPException):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong and what to do, for a person.
        code: a word for programs.
        param: the part of the request that is at fault.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.param = param


def local_time() -> str:
    """Return the local time as the original's API writes it."""
    return datetime.now().strftime(TIME_FORMAT)


def to_api_error(error: Exception, retry_after: int = 1) -> ApiError | None:
    """Return how an error is told to the client; None where it is a bug, of which the client learns nothing."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="busy", headers={"Retry-After": str(retry_after)})
    for kind, code in ERROR_CODES.items():
        if isinstance(error, kind):
            return ApiError(400, str(error), code=code)
    if find_resource_error(error) and not isinstance(error, GenerationError):
        message = "The server has too little memory, or too many open files, at the moment. Try again a little later."
        return ApiError(503, message, code=OVERLOADED, headers={"Retry-After": str(retry_after)})
    if isinstance(error, VisualGLMError):
        return ApiError(500, str(error), code="model_error")
    return None


def timeout_error() -> ApiError:
    """Return the refusal of a request whose time is over."""
    message = "The answer has taken too long. Ask for a shorter one, or later."
    # Clients that retry on their own would only wait as long again.
    return ApiError(408, message, code="timeout", headers={"X-Should-Retry": "false"})


def internal_error(request_id: str) -> ApiError:
    """Return what a client is told of a bug: where its traceback is to be found."""
    message = f"The server has met an error of its own. Its log tells more under the id {request_id}."
    return ApiError(500, message, code="internal_error")


def error_body(refusal: ApiError, path: str, request_id: str) -> dict[str, Any]:
    """Return the body that tells of a refusal: the original's kind for its path, OpenAI's for all others."""
    if path == "/":
        return {"error": refusal.detail, "status": refusal.status_code, "time": local_time(), "request_id": request_id}
    default = "invalid_request_error" if refusal.status_code < 500 else "server_error"
    kind = ERROR_TYPES.get(refusal.status_code, default)
    error = {"message": refusal.detail, "type": kind, "param": refusal.param, "code": refusal.code}
    return {"error": error}


def error_response(refusal: ApiError, path: str, request_id: str) -> JSONResponse:
    """Return the response that tells of a refusal."""
    return JSONResponse(error_body(refusal, path, request_id), refusal.status_code, refusal.headers)


def validation_error(errors: Sequence[Any]) -> ApiError:
    """Return the refusal of a body that is not as its schema says, from pydantic's first error."""
    first = errors[0]
    where = ".".join(str(part)[:100] for part in first["loc"]) or "the body"
    return ApiError(400, f"{where}: {first['msg']}.", code=first["type"], param=where)

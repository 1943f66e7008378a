"""API errors: the status, message and body of a failed request's response, in the format of its protocol."""

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
# In place of pydantic's messages for these types of errors, which name classes of Python.
VALIDATION_TEXTS = {"missing": "is required, but missing"} | dict.fromkeys(
    ("model_type", "model_attributes_type", "dict_type"), "should be a JSON object"
)
OVERLOADED = "overloaded"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class ApiError(HTTPException):
    """An error response.

    Args:
        status: the HTTP status.
        message: what is wrong and how to fix it, for people.
        code: the kind of error, for programs.
        param: path of the request's value that is invalid.
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
    """Return the local time in the format of the original's API."""
    return datetime.now().strftime(TIME_FORMAT)


def to_api_error(error: Exception, retry_after: int = 1) -> ApiError | None:
    """Map an exception to an API error; None for unexpected exceptions, whose details are not exposed.

    Args:
        retry_after: seconds that a client should wait if the server is busy.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="busy", headers={"Retry-After": str(retry_after)})
    for kind, code in ERROR_CODES.items():
        if isinstance(error, kind):
            return ApiError(400, str(error), code=code)
    if find_resource_error(error) and not isinstance(error, GenerationError):
        message = "The server is short of memory or file descriptors at the moment. Try again later."
        return ApiError(503, message, code=OVERLOADED, headers={"Retry-After": str(retry_after)})
    if isinstance(error, VisualGLMError):
        return ApiError(500, str(error), code="model_error")
    return None


def timeout_error() -> ApiError:
    """Return the error of a request that exceeded its time limit."""
    message = "The answer took too long. Ask for a shorter one, or try again later."
    # Clients that retry automatically would only wait for the same time again.
    return ApiError(408, message, code="timeout", headers={"X-Should-Retry": "false"})


def internal_error(request_id: str) -> ApiError:
    """Return the error for an unexpected exception; it names the log entry and hides the details."""
    message = f"Internal server error. The server's log has the details under the id {request_id}."
    return ApiError(500, message, code="internal_error")


def error_body(error: ApiError, path: str, request_id: str) -> dict[str, Any]:
    """Return the body of an error response: in the original's format for `POST /`, else in OpenAI's."""
    if path == "/":
        return {"error": error.detail, "status": error.status_code, "time": local_time(), "request_id": request_id}
    default = "invalid_request_error" if error.status_code < 500 else "server_error"
    kind = ERROR_TYPES.get(error.status_code, default)
    body = {"message": error.detail, "type": kind, "param": error.param, "code": error.code}
    return {"error": body}


def error_response(error: ApiError, path: str, request_id: str) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse(error_body(error, path, request_id), error.status_code, error.headers)


def validation_error(errors: Sequence[Any]) -> ApiError:
    """Return the error of a body that violates its schema, from the first of pydantic's errors."""
    first = errors[0]
    path = ".".join(str(part)[:100] for part in first["loc"])
    text = VALIDATION_TEXTS.get(first["type"])
    reason = f"{path}: {first['msg']}" if text is None else f"{path or 'The body'} {text}"
    return ApiError(400, f"{reason}.", code=first["type"], param=path or None)

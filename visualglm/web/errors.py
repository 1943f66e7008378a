"""Errors of the page's HTTP API: a code for the client, and a message in the language of the request."""

import logging
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from model import BusyError, ImageError, Language, PromptTooLongError, SettingError, VisualGLMError
from model.resource_errors import find_resource_error

from ..error_texts import describe_error
from .texts import ERROR_TEXTS, choose_language

STATUS = {
    "busy": 429,
    "forbidden": 403,
    "image_too_large": 413,
    "internal": 500,
    "not_found": 404,
    "not_logged_in": 401,
    "out_of_memory": 503,
    "too_large": 413,
    "too_slow": 408,
    "unknown_image": 404,
}
MODEL_CODES = {
    BusyError: "busy",
    ImageError: "invalid_image",
    PromptTooLongError: "prompt_too_long",
    SettingError: "invalid_setting",
}
RETRY_AFTER_S = 5
logger = logging.getLogger(__name__)


class PageError(Exception):
    """An error that the client shows to the visitor.

    Args:
        code: a key of ERROR_TEXTS, or one of MODEL_CODES.
        text: key in ERROR_TEXTS; None for `code`.
        cause: the error of the model that the message describes, instead of a text of the page.
        values: fill the text's placeholders.
    """

    def __init__(
        self, code: str, *, text: str | None = None, cause: VisualGLMError | None = None, **values: Any
    ) -> None:
        super().__init__(code)
        self.code = code
        self.text = text or code
        self.cause = cause
        self.values = values

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS.get(self.code, 400)

    def message(self, language: Language) -> str:
        """Return the message for the visitor."""
        if self.cause is not None:
            return describe_error(self.cause, language)
        return ERROR_TEXTS[self.text][language].format(**self.values)

    def to_dict(self, language: Language) -> dict[str, str]:
        """Return code and message as the client reads them."""
        return {"code": self.code, "message": self.message(language)}

    def response(self, language: Language, **headers: str) -> JSONResponse:
        """Return the HTTP response."""
        if self.code == "busy":
            headers["Retry-After"] = str(RETRY_AFTER_S)
        return JSONResponse({"error": self.to_dict(language)}, self.status, headers)


def to_page_error(error: Exception) -> PageError:
    """Map an exception to a PageError; log an unexpected one, and hide its details behind an id."""
    if isinstance(error, PageError):
        return error
    if isinstance(error, VisualGLMError):
        code = next((code for kind, code in MODEL_CODES.items() if isinstance(error, kind)), None)
        if code is None:
            code = "out_of_memory" if find_resource_error(error) else "internal"
        return PageError(code, cause=error)
    if find_resource_error(error):
        return PageError("out_of_memory")
    number = uuid.uuid4().hex[:8]
    logger.error("Request failed, id %s", number, exc_info=error)
    return PageError("internal", id=number)


def request_language(scope: Scope) -> Language:
    """Return the language of a request: `?lang=`, else the browser's."""
    request = Request(scope)
    return choose_language(request.query_params.get("lang"), request.headers.get("accept-language"))

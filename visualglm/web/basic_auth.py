"""HTTP Basic authentication for programs that cannot log in through the page."""

import base64
import binascii
import logging
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .login import LoginAttempts

CHALLENGE = {"WWW-Authenticate": 'Basic realm="VisualGLM", charset="UTF-8"'}
logger = logging.getLogger(__name__)


def parse_credentials(header: str) -> tuple[str, str] | None:
    """Return name and password of an Authorization header (RFC 7617), None if it has none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    name, _, password = text.partition(":")
    return name, password


class BasicAuth:
    """ASGI app that requires a login by HTTP Basic authentication before it calls another app.

    Args:
        app: the app that is protected.
        logins: names and passwords; none lets every request pass.
        attempts: counts wrong passwords, those of the login page too.
    """

    def __init__(self, app: ASGIApp, logins: Sequence[tuple[str, str]], attempts: LoginAttempts) -> None:
        self.app = app
        self.logins = [f"{name}:{password}".encode() for name, password in logins]
        self.attempts = attempts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rejection = self.check(scope) if self.logins and scope["type"] == "http" else None
        await (rejection or self.app)(scope, receive, send)

    def check(self, scope: Scope) -> JSONResponse | None:
        """Return the response that rejects a request, None if its login is right."""
        credentials = parse_credentials(Headers(scope=scope).get("authorization", ""))
        if credentials is None:
            return reject("not_logged_in", "A login is required, by HTTP Basic authentication.", 401, CHALLENGE)
        address = scope["client"][0] if scope.get("client") else ""
        if seconds := self.attempts.seconds_to_wait(address):
            logger.warning("Login from %s rejected: it has to wait %.0f s", address, seconds)
            wait = {"Retry-After": f"{max(1, round(seconds))}"}
            return reject("busy", "Too many wrong passwords. Try again later.", 429, wait)
        if self.is_known(*credentials):
            return None
        logger.warning("Login from %s failed (%d times)", address, self.attempts.record_failure(address))
        return reject("not_logged_in", "The name or the password is wrong.", 401, CHALLENGE)

    def is_known(self, name: str, password: str) -> bool:
        """Return whether a name and password are a login; the time taken does not depend on how much is right."""
        given = f"{name}:{password}".encode()
        return any(secrets.compare_digest(given, login) for login in self.logins)


def reject(code: str, message: str, status: int, headers: dict[str, str]) -> JSONResponse:
    """Return an error in the form of the page's API."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)

"""Middleware of the server: request log, authentication and origin checks, limits on request bodies.

It is plain ASGI, not `BaseHTTPMiddleware`, so that a route's `receive` reports when the client disconnects.
"""

import asyncio
import contextlib
import hmac
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..body_budget import BodyReservation
from ..local_address import is_own_host
from .api_errors import ApiError, error_response
from .docs import DOCS, KINDS
from .replies import ClientDisconnected
from .request_log import RequestRecord, choose_request_id, log_request
from .service import Service
from .settings import listens_locally

PUBLIC_PATHS = ("/health", "/ready", "/openapi.json", DOCS, *(f"{DOCS}/{name}" for name in KINDS))
CLOSE_CONNECTION = {"Connection": "close"}
# A browser sends POST requests with these types from any site's page without a CORS preflight.
SAFELISTED_CONTENT_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


class RequestLogMiddleware:
    """Gives each request an id, logs and counts it, and converts exceptions to error responses."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        client = scope["client"][0] if scope.get("client") else None
        record = RequestRecord(
            choose_request_id(Headers(scope=scope).get("x-request-id")), scope["method"], scope["path"], client
        )
        scope.setdefault("state", {})["record"] = record
        response_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal response_started
            if message["type"] == "http.response.start":
                response_started = True
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnected:
            record.status = 499
        except Exception as error:
            api_error = self.service.report_error(error, record)
            if not response_started:
                await error_response(api_error, record.path, record.id)(scope, receive, send_with_id)
        finally:
            record.seconds = round(time.perf_counter() - started, 4)
            self.service.metrics.observe_request(record)
            log_request(record)


class AuthMiddleware:
    """Rejects requests without a valid API key, possible cross-site request forgeries, and premature POST requests.

    Public paths are exempt. Origin and readiness are checked for POST requests only: 403 if a page of another site may
    have sent one without permission (see `check_origin`), 503 while the model is loading or the server shuts down.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self.keys = [key.encode() for key in service.settings.api_keys]
        self.is_local = not self.keys and listens_locally(service.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_public(scope):
            headers = Headers(scope=scope)
            try:
                self.check(scope, headers)
            except ApiError:
                await discard_body(headers, receive, self.service.settings.body_timeout)
                raise
        await self.app(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Check the key of a request, and for POST its origin and that the server is ready; record the key's number.

        Raises:
            ApiError: the request is rejected.
        """
        scope["state"]["record"].key = self.check_key(headers.get("authorization"))
        if scope["method"] == "POST":
            self.check_origin(headers)
            self.check_ready()

    def check_key(self, authorization: str | None) -> int | None:
        """Return the number of the request's key, counted from 1; None if the server has no keys.

        Raises:
            ApiError: 401, the key is missing or wrong.
        """
        if not self.keys:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        given = key.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
        # Compare with every key, each in constant time, so that the duration reveals nothing about the keys.
        matches = [hmac.compare_digest(given, known) for known in self.keys]
        if not any(matches):
            message = "An API key is required. Send the header Authorization: Bearer YOUR_KEY."
            raise ApiError(
                401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer", **CLOSE_CONNECTION}
            )
        return matches.index(True) + 1

    def check_origin(self, headers: Headers) -> None:
        """Reject requests that a page of another site may send through a visitor's browser (CSRF, DNS rebinding).

        Such a page could keep the model busy, and could read the answers if its host name resolves to this machine.

        Raises:
            ApiError: 403, the request may come from such a page.
        """
        origin, host, allowed = headers.get("origin"), headers.get("host", ""), self.service.settings.cors_origins
        if origin is None or origin in allowed or "*" in allowed:
            return
        is_same = origin.partition("://")[2] == host
        if is_same and self.is_local and not is_own_host(host):
            message = (
                f"Requests from {origin} are not allowed. Start the server with --cors-origin {origin} to allow them."
            )
            raise ApiError(403, message, code="cross_site", headers=CLOSE_CONNECTION)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not is_same and kind in SAFELISTED_CONTENT_TYPES:
            message = "Pages of other sites can only send JSON: set Content-Type to application/json."
            raise ApiError(403, message, code="cross_site", headers=CLOSE_CONNECTION)

    def check_ready(self) -> None:
        """Check that the server accepts questions.

        Raises:
            ApiError: 503, the server is shutting down, or the model is still loading.
        """
        if self.service.limiter.closing:
            raise ApiError(
                503, "The server is shutting down.", code="stopping", headers={"Retry-After": "30", **CLOSE_CONNECTION}
            )
        if self.service.model is None:
            message = "The model is still loading. Try again in a minute."
            raise ApiError(503, message, code="loading", headers={"Retry-After": "30", **CLOSE_CONNECTION})


def is_public(scope: Scope) -> bool:
    """Return whether a request needs no key. GET / is public because its 405 response names the documentation."""
    return scope["path"] in PUBLIC_PATHS or (scope["method"], scope["path"]) == ("GET", "/")


def expects_continue(headers: Headers) -> bool:
    """Return whether the client waits for 100 Continue before it sends the body.

    If its request is rejected, it does not send the body.
    """
    return headers.get("expect", "").lower() == "100-continue"


async def discard_body(headers: Headers, receive: Receive, seconds: float) -> None:
    """Read and discard a body for at most `seconds`: a client that is still sending would not read the response."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not expects_continue(headers) and (await receive()).get("more_body", False):
                pass


class BodyLimitMiddleware:
    """Reads the complete body of a request, within limits of size and time, before its route runs."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.max_bytes = service.settings.max_body
        self.body_budget = service.body_budget
        self.timeout = service.settings.body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reservation = BodyReservation(self.body_budget)
        scope["state"]["body"] = reservation
        try:
            await self.forward(scope, receive, send, reservation)
        finally:
            reservation.release()

    async def forward(self, scope: Scope, receive: Receive, send: Send, reservation: BodyReservation) -> None:
        """Read the body, then call the route with it."""
        body: bytes | None = await self.read(Headers(scope=scope), receive, reservation)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        await self.app(scope, replay, send)

    async def read(self, headers: Headers, receive: Receive, reservation: BodyReservation) -> bytes:
        """Return the body.

        Raises:
            ApiError: 413, the body is too large; 408, it did not arrive in time; 503, the memory budget of all bodies
                is exhausted.
            ClientDisconnected: the client disconnected.
        """
        announced = headers.get("content-length", "")
        rejection = self.body_too_large() if announced.isdecimal() and int(announced[:20]) > self.max_bytes else None
        if rejection and expects_continue(headers):
            raise rejection
        try:
            async with asyncio.timeout(self.timeout):
                body = await self.collect(receive, reservation, rejection)
        except TimeoutError:
            reason = f"The request did not arrive within {self.timeout:g} s."
            raise ApiError(408, reason, code="slow_request", headers=CLOSE_CONNECTION) from None
        return body

    async def collect(self, receive: Receive, reservation: BodyReservation, rejection: ApiError | None) -> bytes:
        """Return the body.

        A rejected body is read to its end and discarded: a client that is still sending would not read the response.

        Args:
            rejection: raised at the end of the body, if its announced length is too large.
        """
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            part = message.get("body", b"")
            rejection = rejection or self.check_length(len(body) + len(part), reservation)
            if rejection is None:
                body += part
            elif body:
                body = bytearray()
                reservation.release()
            if not message.get("more_body", False):
                break
        if rejection is not None:
            raise rejection
        return bytes(body)

    def check_length(self, length: int, reservation: BodyReservation) -> ApiError | None:
        """Return the error that rejects a body of `length` bytes, None if it is accepted."""
        if length > self.max_bytes:
            return self.body_too_large()
        if not reservation.resize(length):
            message = "The server is receiving too many large requests. Try again in a few seconds."
            return ApiError(503, message, code="busy", headers={"Retry-After": "5", **CLOSE_CONNECTION})
        return None

    def body_too_large(self) -> ApiError:
        """Return the error for a body that is too large."""
        message = f"The request has more than {self.max_bytes:,} bytes. Send a smaller image."
        return ApiError(413, message, code="request_too_large", headers=CLOSE_CONNECTION)

"""What every request passes before its route: a number and a log line, the door, the limits of its body.

They are plain ASGI, so that a route's `receive` is the connection's own and tells when the client leaves.
"""

import asyncio
import contextlib
import hmac
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..local_address import is_own_host
from .admission import BodyReservation
from .api_errors import ApiError, error_response
from .docs import DOCS, KINDS
from .replies import ClientDisconnected
from .request_log import RequestRecord, choose_request_id, log_request
from .service import Service
from .settings import listens_locally

PUBLIC_PATHS = ("/health", "/ready", "/openapi.json", DOCS, *(f"{DOCS}/{name}" for name in KINDS))
CLOSE_CONNECTION = {"Connection": "close"}
# A browser posts such bodies for the page of any site without asking this server first whether it may.
SAFELISTED_CONTENT_TYPES = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


class RequestLogMiddleware:
    """Gives each request an id, writes its line in the log, counts it, and turns errors into responses."""

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
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnected:
            record.status = 499
        except Exception as error:
            refusal = self.service.report_error(error, record)
            if not has_started:
                await error_response(refusal, record.path, record.id)(scope, receive, send_with_id)
        finally:
            record.seconds = round(time.perf_counter() - started, 4)
            self.service.metrics.observe_request(record)
            log_request(record)


class AuthMiddleware:
    """Lets in whoever has a key, while the server is able to answer."""

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
        """Check everything that a request's headers tell.

        Raises:
            Refusal: it is not let in.
        """
        scope["state"]["record"].key = self.check_key(headers.get("authorization"))
        if scope["method"] == "POST":
            self.check_origin(headers)
            self.check_ready()

    def check_key(self, authorization: str | None) -> int | None:
        """Return the number of the key that a request has brought, None where none is needed.

        Raises:
            Refusal: 401, it has no key or another one.
        """
        if not self.keys:
            return None
        scheme, _, key = (authorization or "").partition(" ")
        given = key.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
        # All are compared, each in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given, known) for known in self.keys]
        if not any(matches):
            message = "A key is needed: send it as Authorization: Bearer YOUR_KEY."
            raise ApiError(
                401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer", **CLOSE_CONNECTION}
            )
        return matches.index(True) + 1

    def check_origin(self, headers: Headers) -> None:
        """Check that no browser sends this for the page of another site that it has not asked about.

        Raises:
            Refusal: 403, it may be so. Such a page could keep the model busy, and read answers if it has taken this
                machine's address for its own name.
        """
        origin, host, allowed = headers.get("origin"), headers.get("host", ""), self.service.settings.cors_origins
        if origin is None or origin in allowed or "*" in allowed:
            return
        is_same = origin.partition("://")[2] == host
        if is_same and self.is_local and not is_own_host(host):
            message = f"The name of this page is not known here: start the server with --cors-origin {origin}."
            raise ApiError(403, message, code="cross_site", headers=CLOSE_CONNECTION)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not is_same and kind in SAFELISTED_CONTENT_TYPES:
            message = "The page of another site may send JSON alone: set Content-Type to application/json."
            raise ApiError(403, message, code="cross_site", headers=CLOSE_CONNECTION)

    def check_ready(self) -> None:
        """Check that the server answers.

        Raises:
            Refusal: 503, it is being stopped, or still loads its model.
        """
        if self.service.limiter.closing:
            raise ApiError(
                503, "The server is being stopped.", code="stopping", headers={"Retry-After": "30", **CLOSE_CONNECTION}
            )
        if self.service.model is None:
            message = "The model is still being loaded. Try again in a minute."
            raise ApiError(503, message, code="loading", headers={"Retry-After": "30", **CLOSE_CONNECTION})


def is_public(scope: Scope) -> bool:
    """Return whether a request needs no key; GET / only says where the documentation is."""
    return scope["path"] in PUBLIC_PATHS or (scope["method"], scope["path"]) == ("GET", "/")


def expects_continue(headers: Headers) -> bool:
    """Whether a client waits for a word before it sends its body, so that one that is refused need not."""
    return headers.get("expect", "").lower() == "100-continue"


async def discard_body(headers: Headers, receive: Receive, seconds: float) -> None:
    """Read a body for so many seconds at most, and drop it: a client that is still sending would not see the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not expects_continue(headers) and (await receive()).get("more_body", False):
                pass


class BodyLimitMiddleware:
    """Reads a request's body within limits of size and time before its route sees anything of it."""

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
        """Read the body and let the route have it."""
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
            Refusal: 413, it is too large; 408, it has not arrived in time; 503, all bodies together are too large.
            ClientGone: the client left.
        """
        announced = headers.get("content-length", "")
        refusal = self.body_too_large() if announced.isdecimal() and int(announced[:20]) > self.max_bytes else None
        if refusal and expects_continue(headers):
            raise refusal
        try:
            async with asyncio.timeout(self.timeout):
                body = await self.collect(receive, reservation, refusal)
        except TimeoutError:
            reason = f"The request has not arrived within {self.timeout:g} s."
            raise ApiError(408, reason, code="slow_request", headers=CLOSE_CONNECTION) from None
        return body

    async def collect(self, receive: Receive, reservation: BodyReservation, refusal: ApiError | None) -> bytes:
        """Return the body.

        A body that is refused is read to its end and dropped: a client that is still sending would not see the answer.

        Args:
            refusal: raised at the end of the body, if its announced length is refused.
        """
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            part = message.get("body", b"")
            refusal = refusal or self.check_length(len(body) + len(part), reservation)
            if refusal is None:
                body += part
            elif body:
                body = bytearray()
                reservation.release()
            if not message.get("more_body", False):
                break
        if refusal is not None:
            raise refusal
        return bytes(body)

    def check_length(self, length: int, reservation: BodyReservation) -> ApiError | None:
        """Return why a body of `length` bytes is refused, None if it is not."""
        if length > self.max_bytes:
            return self.body_too_large()
        if not reservation.resize(length):
            message = "The server reads too many large requests at the moment. Try again in a few seconds."
            return ApiError(503, message, code="busy", headers={"Retry-After": "5", **CLOSE_CONNECTION})
        return None

    def body_too_large(self) -> ApiError:
        """Return the refusal of a body for its size."""
        message = f"The request has more than {self.max_bytes:,} bytes. Send a smaller picture."
        return ApiError(413, message, code="request_too_large", headers=CLOSE_CONNECTION)

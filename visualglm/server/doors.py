"""What every request passes before its route: a number and a log line, the door, the limits of its body.

They are plain ASGI, so that a route's `receive` is the connection's own and tells when the client leaves.
"""

import asyncio
import contextlib
import hmac
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..local_address import is_own_name
from .docs import DOCS, KINDS
from .limits import BodyShare
from .refusals import Refusal, respond
from .replies import ClientGone
from .service import Service
from .settings import listens_locally
from .trace import Trace, choose_id, log_request

OPEN_PATHS = ("/health", "/ready", "/openapi.json", DOCS, *(f"{DOCS}/{name}" for name in KINDS))
CLOSE = {"Connection": "close"}
# A browser posts such bodies for the page of any site without asking this server first whether it may.
UNASKED_KINDS = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


class Watch:
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
        trace = Trace(choose_id(Headers(scope=scope).get("x-request-id")), scope["method"], scope["path"], client)
        scope.setdefault("state", {})["trace"] = trace
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                trace.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = trace.id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientGone:
            trace.status = 499
        except Exception as error:
            refusal = self.service.explain(error, trace)
            if not begun:
                await respond(refusal, trace.path, trace.id)(scope, receive, send_with_id)
        finally:
            trace.seconds = round(time.perf_counter() - started, 4)
            self.service.metrics.note_request(trace)
            log_request(trace)


class Door:
    """Lets in whoever has a key, while the server is able to answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service
        self.keys = [key.encode() for key in service.settings.api_keys]
        self.is_local = not self.keys and listens_locally(service.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope):
            headers = Headers(scope=scope)
            try:
                self.check(scope, headers)
            except Refusal:
                await drop_body(headers, receive, self.service.settings.body_timeout)
                raise
        await self.app(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Check everything that a request's headers tell.

        Raises:
            Refusal: it is not let in.
        """
        scope["state"]["trace"].key = self.check_key(headers.get("authorization"))
        if scope["method"] == "POST":
            self.check_site(headers)
            self.check_open()

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
            raise Refusal(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer", **CLOSE})
        return matches.index(True) + 1

    def check_site(self, headers: Headers) -> None:
        """Check that no browser sends this for the page of another site that it has not asked about.

        Raises:
            Refusal: 403, it may be so. Such a page could keep the model busy, and read answers if it has taken this
                machine's address for its own name.
        """
        origin, host, let = headers.get("origin"), headers.get("host", ""), self.service.settings.cors_origins
        if origin is None or origin in let or "*" in let:
            return
        is_same = origin.partition("://")[2] == host
        if is_same and self.is_local and not is_own_name(host):
            message = f"The name of this page is not known here: start the server with --cors-origin {origin}."
            raise Refusal(403, message, code="cross_site", headers=CLOSE)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not is_same and kind in UNASKED_KINDS:
            message = "The page of another site may send JSON alone: set Content-Type to application/json."
            raise Refusal(403, message, code="cross_site", headers=CLOSE)

    def check_open(self) -> None:
        """Check that the server answers.

        Raises:
            Refusal: 503, it is being stopped, or still loads its model.
        """
        if self.service.gate.closing:
            raise Refusal(503, "The server is being stopped.", code="stopping", headers={"Retry-After": "30", **CLOSE})
        if self.service.model is None:
            message = "The model is still being loaded. Try again in a minute."
            raise Refusal(503, message, code="loading", headers={"Retry-After": "30", **CLOSE})


def is_open(scope: Scope) -> bool:
    """Return whether a request needs no key; GET / only says where the documentation is."""
    return scope["path"] in OPEN_PATHS or (scope["method"], scope["path"]) == ("GET", "/")


def asks_first(headers: Headers) -> bool:
    """Whether a client waits for a word before it sends its body, so that one that is refused need not."""
    return headers.get("expect", "").lower() == "100-continue"


async def drop_body(headers: Headers, receive: Receive, seconds: float) -> None:
    """Read a body for so many seconds at most, and drop it: a client that is still sending would not see the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not asks_first(headers) and (await receive()).get("more_body", False):
                pass


class BodyLimits:
    """Reads a request's body within limits of size and time before its route sees anything of it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.most = service.settings.max_body
        self.budget = service.bodies
        self.timeout = service.settings.body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        share = BodyShare(self.budget)
        scope["state"]["body"] = share
        try:
            await self.pass_on(scope, receive, send, share)
        finally:
            share.release()

    async def pass_on(self, scope: Scope, receive: Receive, send: Send, share: BodyShare) -> None:
        """Read the body and let the route have it."""
        body: bytes | None = await self.read(Headers(scope=scope), receive, share)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        await self.app(scope, replay, send)

    async def read(self, headers: Headers, receive: Receive, share: BodyShare) -> bytes:
        """Return the body.

        Raises:
            Refusal: 413, it is too large; 408, it has not arrived in time; 503, all bodies together are too large.
            ClientGone: the client left.
        """
        announced = headers.get("content-length", "")
        refusal = self.too_large() if announced.isdecimal() and int(announced[:20]) > self.most else None
        if refusal and asks_first(headers):
            raise refusal
        try:
            async with asyncio.timeout(self.timeout):
                body = await self.collect(receive, share, refusal)
        except TimeoutError:
            reason = f"The request has not arrived within {self.timeout:g} s."
            raise Refusal(408, reason, code="slow_request", headers=CLOSE) from None
        return body

    async def collect(self, receive: Receive, share: BodyShare, refusal: Refusal | None) -> bytes:
        """Return the body.

        A body that is refused is read to its end and dropped: a client that is still sending would not see the answer.

        Args:
            refusal: raised at the end of the body, if its announced length is refused.
        """
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            refusal = refusal or self.check_length(len(body) + len(part), share)
            if refusal is None:
                body += part
            elif body:
                body = bytearray()
                share.release()
            if not message.get("more_body", False):
                break
        if refusal is not None:
            raise refusal
        return bytes(body)

    def check_length(self, length: int, share: BodyShare) -> Refusal | None:
        """Return why a body of `length` bytes is refused, None if it is not."""
        if length > self.most:
            return self.too_large()
        if not share.resize(length):
            message = "The server reads too many large requests at the moment. Try again in a few seconds."
            return Refusal(503, message, code="busy", headers={"Retry-After": "5", **CLOSE})
        return None

    def too_large(self) -> Refusal:
        """Return the refusal of a body for its size."""
        message = f"The request has more than {self.most:,} bytes. Send a smaller picture."
        return Refusal(413, message, code="request_too_large", headers=CLOSE)

"""Middleware of the page: checks host, origin, path, login and body before Gradio handles a request."""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model import VisualGLMError

from ..local_address import client_network
from .access import AccessPolicy, is_public, is_used

FREE_ATTEMPTS = 5
MAX_WAIT_S = 300.0
FORGET_AFTER_S = 3600.0
MAX_ADDRESSES = 10_000


class LoginAttempts:
    """Counts failed logins per client address. After FREE_ATTEMPTS, each failure doubles the waiting time.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        # Count and time of the last failure of each address, oldest first.
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def seconds_to_wait(self, address: str) -> float:
        """Return the seconds until the address may try again, 0 if it may try now."""
        count, last = self._find(address)
        if count < FREE_ATTEMPTS:
            return 0.0
        pause = min(2.0 ** min(count - FREE_ATTEMPTS, 30), MAX_WAIT_S)
        return max(0.0, last + pause - self.clock())

    def record_failure(self, address: str) -> int:
        """Count a failed login; return the number of failures."""
        count = self._find(address)[0] + 1
        key = client_network(address)
        self._failures[key] = (count, self.clock())
        self._failures.move_to_end(key)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return count

    def reset(self, address: str) -> None:
        """Reset the failures of an address to 0."""
        self._failures.pop(client_network(address), None)

    def _find(self, address: str) -> tuple[int, float]:
        count, last = self._failures.get(client_network(address), (0, 0.0))
        return (0, 0.0) if self.clock() - last > FORGET_AFTER_S else (count, last)


def is_logged_in(app: Any, cookie_header: str) -> bool:
    """Return whether a request's cookies belong to a login, or the Gradio app has no login."""
    if app.auth is None:
        return True
    try:
        cookies = SimpleCookie(cookie_header)
    except CookieError:
        return False
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(name in cookies and cookies[name].value in app.tokens for name in names)


MAX_BODY_BYTES = 1024**2  # maximum body of a request that is not an upload
MAX_PUBLIC_BODY_BYTES = 16 * 1024  # maximum body of a request that needs no login
BODY_TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0
MAX_PENDING_EVENTS = 16  # maximum number of a visitor's events whose results were not fetched
MAX_PENDING_VISITORS = 4000  # with more, the events of ended sessions are dropped
MAX_SESSION_HASH = 64  # maximum number of characters of a session_hash
FILE_POLICY = "default-src 'none'; sandbox; "  # an upload that a browser opens must not execute anything
UPLOAD, JOIN, FILE = "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/file="
logger = logging.getLogger(__name__)


class RequestError(Exception):
    """A request is rejected with a status and a message."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.response = JSONResponse({"detail": message, "error": message}, status, headers)


class PageMiddleware:
    """Checks a request's host, origin, path, login and body.

    Args:
        app: the next ASGI app.
        blocks: the page's PageBlocks.
        access: the rules for hosts and origins.
        max_upload: maximum bytes of an uploaded file.
    """

    def __init__(self, app: ASGIApp, blocks: Any, access: AccessPolicy, max_upload: int) -> None:
        self.app = app
        self.blocks = blocks
        self.access = access
        self.max_upload = max_upload + MAX_BODY_BYTES  # the request contains the file and its multipart form
        self.attempts = LoginAttempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no WebSocket
            await send({"type": "websocket.close"})
            return
        path = scope["path"].rstrip("/") or "/"

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.add_headers(path, message)
            await send(message)

        try:
            await self.forward(path, scope, receive, send_guarded)
        except RequestError as rejection:
            await rejection.response(scope, receive, send_guarded)

    async def forward(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then call the app.

        Raises:
            RequestError: the request is rejected.
        """
        headers = Headers(scope=scope)
        self.check_headers(path, scope, headers)
        if path == UPLOAD:
            await self.handle_upload(headers, scope, receive, send)
            return
        if scope["method"] == "POST":
            receive = await self.read_body(path, receive)
        if path == "/login" and scope["method"] == "POST":
            await self.handle_login(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def check_headers(self, path: str, scope: Scope, headers: Headers) -> None:
        """Check host, origin, path and login, before the body is read.

        Raises:
            RequestError: the request is rejected.
        """
        host = headers.get("host", "")
        if not self.access.allows_host(host):
            message = "is not allowed. To allow it, start the page with --allow-host and this host name."
            raise RequestError(403, f"The host {host!r} {message}")
        if not self.access.allows_origin(headers):
            raise RequestError(403, "Requests from other sites are not allowed. --allow-host NAME allows a proxy.")
        if not is_used(path) or (path == UPLOAD and scope["method"] != "POST"):
            raise RequestError(404, "Not found.")
        app = scope["app"]
        is_starting = path == "/gradio_api/startup-events" and not app.startup_events_triggered  # requested by launch()
        if not is_public(path) and not is_starting and not is_logged_in(app, headers.get("cookie", "")):
            raise RequestError(401, "Not authenticated")
        if path.startswith(FILE) and not self.blocks.folder.contains(scope["path"].removeprefix(FILE)):
            raise RequestError(403, "File not allowed")
        if path == "/gradio_api/queue/data":
            self.check_event_stream(scope)

    def check_event_stream(self, scope: Scope) -> None:
        """Check that the session has pending events: otherwise Gradio fails with a traceback during the response.

        Raises:
            RequestError: the session has no pending events.
        """
        given = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        if given not in self.blocks._queue.pending_messages_per_session:
            raise RequestError(404, "This session has no events.")

    def add_headers(self, path: str, response: Message) -> None:
        """Add the response headers that restrict browsers."""
        prefix = FILE_POLICY if path.startswith(FILE) else ""
        headers = MutableHeaders(scope=response)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Content-Security-Policy"] = prefix + self.access.frame_policy

    async def read_body(self, path: str, receive: Receive) -> Receive:
        """Read a body within limits of size and time, check it if it is an event; return a `receive` that replays it.

        Raises:
            RequestError: the body is too large or too slow, or is an invalid event.
        """
        limit = MAX_PUBLIC_BODY_BYTES if is_public(path) else MAX_BODY_BYTES
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                more = True
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)  # also False for a disconnect
                    if len(body) > limit:
                        raise RequestError(413, f"The request has more than {limit:,} bytes.", Connection="close")
        except TimeoutError:
            raise RequestError(408, "The request did not arrive in time.", Connection="close") from None
        if path == JOIN:
            self.check_event(bytes(body))
        return replay(bytes(body), receive)

    def check_event(self, body: bytes) -> None:
        """Check that a body names an event of the page, and that its visitor has few pending events.

        Raises:
            RequestError: the event is invalid, or the visitor has too many pending events.
        """
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError(400, "The request is not JSON.") from None
        event = event if isinstance(event, dict) else {}
        number, session = event.get("fn_index"), event.get("session_hash")
        known = self.blocks.fns.get(number) if isinstance(number, int) else None
        if known is None or known.fn is None:
            raise RequestError(404, "The page has no such event.")
        if not isinstance(session, str) or not 0 < len(session) <= MAX_SESSION_HASH:
            raise RequestError(422, f"An event needs a session_hash of at most {MAX_SESSION_HASH} characters.")
        if not isinstance(event.get("data"), list):
            raise RequestError(422, "An event needs a list of data.")
        pending = self.blocks._queue.pending_event_ids_session
        if len(pending.get(session, ())) >= MAX_PENDING_EVENTS:
            raise RequestError(429, "Too many events are pending. Fetch their results first.", **{"Retry-After": "5"})
        if len(pending) > MAX_PENDING_VISITORS:
            self.drop_orphaned_events()

    def drop_orphaned_events(self) -> None:
        """Drop the ids of events of ended sessions, whose results can no longer be fetched."""
        queue = self.blocks._queue
        for session in [
            key for key in queue.pending_event_ids_session if key not in queue.pending_messages_per_session
        ]:
            del queue.pending_event_ids_session[session]

    async def handle_login(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a login and count its failure.

        Raises:
            RequestError: the client's address has to wait after failed logins.
        """
        address = scope["client"][0] if scope.get("client") else ""
        if seconds_to_wait := self.attempts.seconds_to_wait(address):
            logger.warning("Login from %s rejected: it has to wait %.0f s", address, seconds_to_wait)
            raise RequestError(
                429, "Too many wrong passwords. Try again later.", **{"Retry-After": f"{seconds_to_wait:.0f}"}
            )

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 400:
                    logger.warning("Login from %s failed (%d times)", address, self.attempts.record_failure(address))
                elif message["status"] == 200:
                    self.attempts.reset(address)
            await send(message)

        await self.app(scope, receive, send_noted)

    async def handle_upload(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward an upload, within the free space of the folder and a time limit. Failures are logged.

        Raises:
            RequestError: the upload is too large or too slow, or cannot be stored.
        """
        announced = headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() and len(announced) < 20 else self.max_upload
        folder = self.blocks.folder
        scope["app"].uploaded_file_dir = str(folder.path)  # Gradio's default is shared by all pages of the process

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                logger.warning("An upload failed with status %d", message["status"])
            await send(message)

        try:
            if size > self.max_upload:
                raise RequestError(413, f"An upload can have at most {self.max_upload:,} bytes.", Connection="close")
            with folder.reserve(size):
                async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                    await self.app(scope, limit_receive(receive, size), send_noted)
        except RequestError as rejection:
            logger.warning("An upload failed: %s", rejection)
            raise
        except TimeoutError:
            logger.warning("An upload took more than %.0f s", UPLOAD_TIMEOUT_S)
            raise RequestError(408, "The upload took too long.", Connection="close") from None
        except (OSError, VisualGLMError) as error:
            logger.warning("An upload failed: %s", error)
            raise RequestError(507, "The upload could not be stored. See the server's log.") from error
        finally:
            self.blocks.upload_file_set.clear()  # the list for Gradio's own cleanup, which is not used, would only grow


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that replays a body, then continues with `receive`."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return left.pop() if left else await receive()

    return receive_again


def limit_receive(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that raises a RequestError after `limit` bytes."""
    total = 0

    async def receive_counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > limit:
            raise RequestError(413, f"The upload has more than {limit:,} bytes.", Connection="close")
        return message

    return receive_counted

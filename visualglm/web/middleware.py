"""Middleware of the page: checks host, origin, path and login; serves the page's own routes, Gradio serves the rest."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model import Language

from .access import MCP_METHODS, MCP_PATH, PAGE_PREFIX, POST_PATHS, AccessPolicy, is_public, is_used
from .basic_auth import BasicAuth
from .body_reader import IMAGE_TIMEOUT_S, JSON_TIMEOUT_S, MAX_LOGIN_BYTES
from .client_files import compressed_response
from .errors import PageError, request_language
from .login import LoginAttempts, build_login_page, find_user
from .routes import PageRoutes
from .shell import insert_shell
from .texts import LOGIN_TEXTS

if TYPE_CHECKING:
    from ..mcp.http import McpApp  # of an extra

LOGIN, STARTUP = "/login", "/gradio_api/startup-events"
HTML = "text/html"
logger = logging.getLogger(__name__)


class PageMiddleware:
    """Checks each request, then forwards it to the page's routes or to Gradio.

    Args:
        app: the next ASGI app.
        routes: the page's own routes.
        access: the rules for hosts and origins.
        mcp: the tool for other programs; None for none.
        logins: names and passwords that the tool requires; none for a page without login.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: PageRoutes,
        access: AccessPolicy,
        mcp: "McpApp | None" = None,
        logins: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.app = app
        self.routes = routes
        self.service = routes.service
        self.access = access
        self.attempts = LoginAttempts()
        self.mcp = mcp
        self.guarded_mcp = BasicAuth(self.call_mcp, logins, self.attempts)

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
                self.add_headers(message)
            await send(message)

        try:
            self.check_source(scope)
            if path == MCP_PATH and self.mcp is not None and scope["method"] in MCP_METHODS:
                await self.guarded_mcp(scope, receive, send_guarded)
                return
            scope["user_name"] = self.check_path(path, scope)
            await self.forward(path, scope, receive, send_guarded)
        except PageError as error:
            await error.response(request_language(scope), Connection="close")(scope, receive, send_guarded)

    def check_source(self, scope: Scope) -> None:
        """Check host and origin, before the body is read.

        Raises:
            PageError: the request is rejected.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.access.allows_host(host):
            raise PageError("forbidden", text="forbidden_host", host=repr(host))
        if not self.access.allows_origin(headers):
            raise PageError("forbidden", text="forbidden_origin")

    def check_path(self, path: str, scope: Scope) -> str | None:
        """Check path, method and login, before the body is read; return the name of the login, if any.

        Raises:
            PageError: the request is rejected.
        """
        is_known_method = scope["method"] in ("GET", "HEAD") or (scope["method"] == "POST" and path in POST_PATHS)
        if not is_used(path) or not is_known_method:
            raise PageError("not_found")
        app = scope["app"]
        user = find_user(app, Headers(scope=scope).get("cookie", "")) if app.auth is not None else None
        is_starting = path == STARTUP and not app.startup_events_triggered  # requested by launch()
        if not is_public(path) and not is_starting and user is None and app.auth is not None:
            raise PageError("not_logged_in")
        return user

    async def forward(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that has passed the checks."""
        if path.startswith(PAGE_PREFIX):
            await self.routes(scope, receive, send)
        elif path == "/":
            await (await self.first_document(scope, receive))(scope, receive, send)
        elif path == LOGIN and scope["method"] == "POST":
            await (await self.log_in(scope, receive))(scope, receive, send)
        elif path == LOGIN:
            await RedirectResponse("./", 303)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def call_mcp(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request to the tool, with its body read within the limits of all bodies.

        Raises:
            PageError: the body is too large or too slow.
        """
        assert self.mcp is not None  # checked before
        if scope["method"] != "POST":
            await self.mcp(scope, receive, send)
            return
        limit, request = self.mcp.max_body_bytes, Request(scope, receive)
        too_large = PageError("too_large", detail=f"{limit:,} B")
        async with self.routes.bodies.read(request, limit, IMAGE_TIMEOUT_S, too_large) as body:
            await self.mcp(scope, replay(body, receive), send)

    def add_headers(self, response: Message) -> None:
        """Add the response headers that restrict browsers."""
        headers = MutableHeaders(scope=response)
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        headers["Content-Security-Policy"] = self.access.frame_policy

    async def first_document(self, scope: Scope, receive: Receive) -> Response:
        """Return the page, or the login page to a visitor who is not logged in."""
        request, language, files = Request(scope), request_language(scope), self.service.client.read()
        if scope["app"].auth is not None and scope["user_name"] is None:
            return self.login_page(language)
        gradio = await call(self.app, {**scope, "method": "GET"}, receive)
        if gradio.status_code != 200:
            return gradio
        info = self.service.info(scope["user_name"])
        preview = None if scope["app"].auth is not None else preview_address(request)
        document = insert_shell(bytes(gradio.body), files, info, language, preview)
        return compressed_response(request, document, HTML, Cache_Control="no-store")

    def login_page(self, language: Language, error: str = "", username: str = "", status: int = 200) -> Response:
        """Return the login page."""
        document = build_login_page(self.service.client.read(), language, error, username)
        return HTMLResponse(document, status, {"Cache-Control": "no-store"})

    async def log_in(self, scope: Scope, receive: Receive) -> Response:
        """Forward a login to Gradio and count a failure. A browser's form gets a page, another client Gradio's JSON.

        Raises:
            PageError: the body is too large or too slow.
        """
        request, language = Request(scope, receive), request_language(scope)
        address = request.client.host if request.client else ""
        is_form = HTML in request.headers.get("accept", "")
        words = LOGIN_TEXTS[language]
        if seconds := self.attempts.seconds_to_wait(address):
            logger.warning("Login from %s rejected: it has to wait %.0f s", address, seconds)
            message = words["wait"].format(seconds=max(1, round(seconds)))
            rejected = self.login_page(language, message, status=429) if is_form else json_error(message, 429)
            rejected.headers["Retry-After"] = f"{max(1, round(seconds))}"
            return rejected
        too_large = PageError("too_large", detail=f"{MAX_LOGIN_BYTES:,} B")
        async with self.routes.bodies.read(request, MAX_LOGIN_BYTES, JSON_TIMEOUT_S, too_large) as body:
            gradio = await call(self.app, scope, replay(body, receive))
        if gradio.status_code == 400:
            logger.warning("Login from %s failed (%d times)", address, self.attempts.record_failure(address))
            return self.login_page(language, words["wrong"], status=400) if is_form else gradio
        if gradio.status_code != 200:
            return self.login_page(language, words["wrong"], status=gradio.status_code) if is_form else gradio
        self.attempts.reset(address)
        return redirect_with_cookies(gradio, language) if is_form else gradio


def json_error(message: str, status: int) -> Response:
    """Return an error in the form of Gradio's own."""
    return JSONResponse({"detail": message}, status)


def redirect_with_cookies(login: Response, language: Language) -> Response:
    """Return a redirection to the page that sets the cookies of a login."""
    response = RedirectResponse(f"./?lang={language.code}", 303)
    for name, value in login.raw_headers:
        if name.lower() == b"set-cookie":
            response.raw_headers.append((name, value))
    return response


def preview_address(request: Request) -> str:
    """Return the absolute URL of the image that link previews show."""
    scheme = "https" if request.headers.get("x-forwarded-proto", request.url.scheme) == "https" else "http"
    return f"{scheme}://{request.headers.get('host', '')}{request.scope.get('root_path', '')}/page/examples/scene.png"


async def call(app: ASGIApp, scope: Scope, receive: Receive) -> Response:
    """Return the complete response of an ASGI app."""
    start: Message = {}
    body = bytearray()

    async def collect(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        body.extend(message.get("body", b""))

    await app(scope, receive, collect)
    response = Response(bytes(body), start["status"])
    response.raw_headers = [item for item in start["headers"] if item[0].lower() != b"content-length"]
    response.raw_headers.append((b"content-length", str(len(body)).encode()))
    return response


def replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Any]]:
    """Return a `receive` that replays a body, then continues with `receive`."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return left.pop() if left else await receive()

    return receive_again

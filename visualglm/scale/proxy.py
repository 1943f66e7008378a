"""Middleware of Ray Serve's HTTP servers: errors in the protocols' own form, and no internal headers from clients."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visualglm.server.api_errors import ApiError, error_body, error_response, timeout_error
from visualglm.server.replies import format_event

REQUEST_ID = "x-request-id"  # the middleware outside of this one adds it to each response
# With these, a client could keep its answer running after it has disconnected, or choose a replica.
INTERNAL_HEADERS = {b"x-request-disconnect-disabled", b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"}
OWN_PATHS = "/-/"  # routes of Ray Serve
LOST = "The process that handled this request has ended. Ask again."
UNAVAILABLE = "The server is starting or has too many requests. Try again in a few seconds."
RETRY = {"Retry-After": "5"}


def middlewares() -> list[Middleware]:
    """Return the middleware; Ray Serve calls this function by the name in a variable."""
    return [Middleware(ProxyErrorMiddleware)]


class ProxyErrorMiddleware:
    """Replaces the plain texts with which Ray Serve reports that no application has answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_PATHS):
            await self.app(scope, receive, send)
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in INTERNAL_HEADERS]
        response = ProxiedResponse(send)
        await self.app(scope, receive, response.send)
        await response.finish(scope, receive)


class ProxiedResponse:
    """The response to one request: passed on if an application made it, else replaced.

    Args:
        send: sends messages to the client.
    """

    def __init__(self, send: Send) -> None:
        self.send_to_client = send
        self.error: ApiError | None = None
        self.started = self.ended = self.is_stream = False

    async def send(self, message: Message) -> None:
        """Pass a message on, or hold it back if it belongs to an error of Ray Serve."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            kind = headers.get("content-type", "")
            self.error = proxy_error(message["status"], kind)
            del headers[REQUEST_ID]
            self.started = self.error is None
            self.is_stream = kind.startswith("text/event-stream")
        if self.error is None:
            self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self.send_to_client(message)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """Send the error of a response that did not come, or that broke off."""
        request_id = Headers(scope=scope).get(REQUEST_ID, "")
        error = self.error or ApiError(500, LOST, code="replica_lost")
        if not self.started:
            await error_response(error, scope["path"], request_id)(scope, receive, self.send_to_client)
        elif self.is_stream and not self.ended:
            body = format_event(error_body(error, scope["path"], request_id))
            await self.send_to_client({"type": "http.response.body", "body": body, "more_body": False})


def proxy_error(status: int, content_type: str) -> ApiError | None:
    """Return the error for a response of Ray Serve itself; None for a response of the application."""
    if status < 400 or content_type.startswith("application/json"):
        return None
    if status == 408:
        return timeout_error()
    if status in (404, 429, 503):  # 404: the application is not deployed
        return ApiError(429 if status == 429 else 503, UNAVAILABLE, code="busy", headers=RETRY)
    return ApiError(500, LOST, code="replica_lost")

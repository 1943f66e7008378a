"""Serves the tool over streamable HTTP, as an ASGI app that can be mounted in any other."""

import asyncio
import logging

import anyio
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from model import ChatModel, GenerationConfig

from .questions import MAX_IMAGE_BYTES, ImageQuestions, LoadedModel
from .tool import make_server

MAX_BODY_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 1024**2  # the image in base64, the question, and JSON
MAX_SESSIONS = 256
SESSION_TIMEOUT_S = 600.0  # without a request


def is_failure(record: logging.LogRecord) -> bool:
    """Return whether a log record is not merely of a client that has ended its session."""
    return not (record.exc_info and isinstance(record.exc_info[1], anyio.ClosedResourceError))


class McpApp:
    """ASGI app of the tool. It starts with the first request, so that no lifespan events are needed.

    Hosts, origins and logins are checked by the app in which it is mounted.

    Args:
        questions: answers the calls.
    """

    max_body_bytes = MAX_BODY_BYTES

    def __init__(self, questions: ImageQuestions) -> None:
        logging.getLogger("mcp.server.streamable_http").addFilter(is_failure)
        self.questions = questions
        self.manager = StreamableHTTPSessionManager(
            make_server(questions),
            session_idle_timeout=SESSION_TIMEOUT_S,
            max_request_body_size=MAX_BODY_BYTES,
            max_sessions=MAX_SESSIONS,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._started = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._running is None:
            self._loop = asyncio.get_running_loop()
            self._running = asyncio.create_task(self._run())
        await self._started.wait()
        await self.manager.handle_request(scope, receive, send)

    async def _run(self) -> None:
        """Keep the sessions' task group open until it is cancelled."""
        async with self.manager.run():
            self._started.set()
            await asyncio.Event().wait()

    def close(self) -> None:
        """End all sessions; any thread may call this."""
        if self._running is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._running.cancel)
        self.questions.close()


def mcp_app(model: ChatModel, config: GenerationConfig, *, allow_urls: bool = False) -> McpApp:
    """Return the ASGI app of the tool for a model that is loaded.

    Args:
        model: answers the questions.
        config: settings of the answers.
        allow_urls: whether images are downloaded from http(s) URLs with public addresses.
    """
    return McpApp(ImageQuestions(LoadedModel(model, config), allow_urls=allow_urls))

"""Clients of the MCP library for tests, which call the tool from ordinary functions."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import httpx
import uvicorn
from anyio.from_thread import start_blocking_portal
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent
from starlette.types import ASGIApp

from tests.helpers.api_server import wait_until

Auth = tuple[str, str]


@asynccontextmanager
async def stdio_session(command: list[str], env: dict[str, str]) -> AsyncIterator[ClientSession]:
    """Start a program; yield a session with it."""
    program, *arguments = command
    parameters = StdioServerParameters(command=program, args=arguments, env=env)
    async with stdio_client(parameters) as (reader, writer), ClientSession(reader, writer) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def http_session(url: str, auth: Auth | None = None) -> AsyncIterator[ClientSession]:
    """Connect to a server; yield a session with it."""
    async with (
        httpx.AsyncClient(auth=auth, trust_env=False, timeout=60) as client,
        streamable_http_client(url, http_client=client) as (reader, writer, _),
        ClientSession(reader, writer) as session,
    ):
        await session.initialize()
        yield session


class ToolClient:
    """Calls a session's tool from the thread of a test."""

    def __init__(self, portal: Any, session: ClientSession) -> None:
        self.portal = portal
        self.session = session

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Await `function(*args)` on the session's event loop; return its result."""
        return self.portal.call(function, *args)

    def ask(self, **arguments: Any) -> tuple[bool, str]:
        """Call ask_picture; return whether the result is an error, and its text."""
        result: CallToolResult = self.run(partial(self.session.call_tool, "ask_picture", arguments))
        (content,) = result.content
        assert isinstance(content, TextContent)
        return bool(result.isError), content.text


@contextmanager
def tool_client(session: AbstractAsyncContextManager[ClientSession]) -> Iterator[ToolClient]:
    """Context manager: open a session on an event loop of its own; yield its client."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(session) as opened:
        yield ToolClient(portal, opened)


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Context manager: serve an ASGI app at a free port; yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()

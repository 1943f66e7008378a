"""Serves the tool over the standard input and output."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, BinaryIO

import anyio
from mcp.server.stdio import stdio_server

from .questions import ImageQuestions, LoadedModel
from .tool import make_server

MAX_PENDING_LINES = 16


class InputLines:
    """Asynchronous iterator over the lines of a stream, whose waiting can be cancelled.

    A thread of its own reads the stream: asyncio would wait at exit for a thread that waits for input.

    Args:
        stream: UTF-8.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.lines: asyncio.Queue[str | None] = asyncio.Queue(MAX_PENDING_LINES)
        self.loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def _read(self) -> None:
        for line in self.stream:
            if not self._put(line.decode("utf-8", "replace")):
                return
        self._put(None)

    def _put(self, line: str | None) -> bool:
        """Queue a line; return False if the event loop has ended."""
        try:
            asyncio.run_coroutine_threadsafe(self.lines.put(line), self.loop).result()
        except (RuntimeError, CancelledError):
            return False
        return True

    def __aiter__(self) -> "InputLines":
        return self

    async def __anext__(self) -> str:
        """Wait for the next line."""
        line = await self.lines.get()
        if line is None:
            raise StopAsyncIteration
        return line


@contextmanager
def reserved_output() -> Iterator[BinaryIO]:
    """Context manager: yield the standard output for messages; everything that is printed goes to the standard error.

    A library that prints would otherwise corrupt the messages.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield open(saved, "wb", closefd=False)  # noqa: SIM115  (a wrapper that closes it must not end the output)
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


async def serve_stdio(loaded: "Future[LoadedModel]", output: BinaryIO, *, allow_urls: bool = False) -> None:
    """Answer requests from the standard input until it ends.

    Args:
        loaded: promise of the model.
        output: receives the responses.
        allow_urls: whether images are downloaded from http(s) URLs.

    Raises:
        Exception: raised by loading the model.
    """
    questions = ImageQuestions(loaded, allow_urls=allow_urls)
    server = make_server(questions)
    lines: Any = InputLines(os.fdopen(os.dup(0), "rb"))
    responses = anyio.wrap_file(TextIOWrapper(output, encoding="utf-8"))

    async def serve() -> None:
        async with stdio_server(lines, responses) as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())

    serving = asyncio.create_task(serve())
    loading = asyncio.wrap_future(loaded)
    awaited: list[asyncio.Future[Any]] = [serving, loading]
    try:
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()  # raises the error of a model that cannot be loaded
        await serving
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        questions.close()

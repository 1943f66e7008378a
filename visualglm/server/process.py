"""The process around the application: it listens while the model loads, and ends when the running answers have."""

import asyncio
import ctypes
import logging
import platform
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from model import ChatModel, SettingError

from .connections import ConnectionLimits, LimitedProtocol
from .request_log import log
from .service import Service
from .settings import Settings, listens_locally

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

RESERVED_FILES = 128  # descriptors for everything but connections: model files, child processes, downloads
MAX_OPEN_FILES = 65_536
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # names of settings in glibc's malloc.h
MALLOC_ARENAS = 2  # as many as threads that allocate much at a time
MMAP_THRESHOLD_BYTES = 4 * 1024 * 1024  # bytes


class Server(uvicorn.Server):
    """Serves until it is told to stop, then lets running answers end; told again, it stops at once."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.limits = ConnectionLimits(
            min(settings.max_connections, max(RESERVED_FILES, raise_file_limit() - RESERVED_FILES)),
            settings.max_client_connections,
            settings.trusted_proxies,
        )
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=partial(LimitedProtocol, limits=self.limits),  # type: ignore[arg-type]
            forwarded_allow_ips=["127.0.0.1", *settings.trusted_proxies],
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,  # the answers have ended by then, or have had their time
        )
        super().__init__(config)
        self.service: Service = app.state.service
        self.shutdown_timeout = settings.shutdown_timeout
        self.shutdown_deadline = 0.0
        self.failure: BaseException | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more questions; at the second signal, stop at once."""
        limiter = self.service.limiter
        if limiter.closing or self.service.model is None:
            super().handle_exit(sig, frame)
            return
        limiter.closing = True
        self.shutdown_deadline = time.monotonic() + self.shutdown_timeout
        log("stopping", answers=limiter.running, signal=signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        """Look whether all answers have ended; uvicorn calls it ten times a second."""
        if self.service.limiter.closing and (
            not self.service.limiter.running or time.monotonic() > self.shutdown_deadline
        ):
            self.should_exit = True
        return await super().on_tick(counter)

    def load_model(self, load: Callable[[], ChatModel]) -> None:
        """Load the model in a thread, while /health answers already; a failure ends the server."""
        started = time.perf_counter()

        def work() -> None:
            try:
                model = load()
                model.warm_up()
                self.service.images.decoder.warm_up()
                self.service.model = model
                log("ready", seconds=round(time.perf_counter() - started, 3))
            except BaseException as error:  # handed over to whoever waits for the server's end
                self.failure = error
                self.should_exit = True

        threading.Thread(target=work, name="loading", daemon=True).start()


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as the system allows; return the limit."""
    if resource is None:
        return MAX_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows less than it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def warn_if_unauthenticated(settings: Settings) -> None:
    """Log a warning if everybody who reaches this machine may ask."""
    if not settings.api_keys and not listens_locally(settings):
        advice = "Everybody who reaches this machine may ask. Give --api-key, or listen at 127.0.0.1."
        log("no key", logging.WARNING, host=settings.host, advice=advice)


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where it should.

    Raises:
        SettingError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as error:
        where = f"{settings.host} port {settings.port}"
        raise SettingError(f"The server cannot listen at {where}: {error}. Choose another --host or --port.") from error


def limit_malloc_arenas() -> None:
    """Let glibc's malloc use few heaps, and map large blocks on their own; other C libraries lack these settings.

    By default it has eight heaps for each core, and what a thread frees in one of them is of no use to the others: the
    server took an eighth more memory, and grew for minutes. Once a large block was freed, it would also put such blocks
    into the heaps, from which a body's memory does not go back to the system.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, MALLOC_ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def serve(app: FastAPI, settings: Settings, load: Callable[[], ChatModel]) -> None:
    """Serve until a signal ends it.

    Raises:
        VisualGLMError: the model could not be loaded, or the address is not to be had.
    """
    limit_malloc_arenas()
    warn_if_unauthenticated(settings)
    server = Server(app, settings)
    sock = listen(settings)
    server.load_model(load)
    host, port = sock.getsockname()[:2]
    log(
        "listening",
        host=host,
        port=port,
        max_connections=server.limits.max_total,
        max_client_connections=server.limits.max_per_client,
    )
    asyncio.run(server.serve(sockets=[sock]))
    if server.failure is not None:
        raise server.failure

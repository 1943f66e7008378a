"""The HTTP server: connections, a graceful shutdown, and the preparation in a thread."""

import asyncio
import ctypes
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from model import ChatModel
from visualglm.connections import ConnectionLimits, LimitedProtocol

from .listening import listen, warn_if_unauthenticated
from .request_log import log
from .service import Service
from .settings import Settings

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

RESERVED_FILES = 128  # file descriptors for everything but connections: model files, child processes, downloads
MAX_OPEN_FILES = 65_536
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # parameters of mallopt, from glibc's malloc.h
MALLOC_ARENAS = 2  # the number of threads that allocate much at the same time
MMAP_THRESHOLD_BYTES = 4 * 1024 * 1024


class Server(uvicorn.Server):
    """A uvicorn server that shuts down gracefully: the first signal lets running answers end, the second stops them."""

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
            timeout_graceful_shutdown=1,  # running answers have ended or timed out before uvicorn starts to shut down
        )
        super().__init__(config)
        self.service: Service = app.state.service
        self.shutdown_timeout = settings.shutdown_timeout
        self.shutdown_deadline = 0.0
        self.failure: BaseException | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Reject new questions from now on; at the second signal, stop immediately."""
        limiter = self.service.limiter
        if limiter.closing or self.service.model is None:
            super().handle_exit(sig, frame)
            return
        limiter.closing = True
        self.shutdown_deadline = time.monotonic() + self.shutdown_timeout
        log("stopping", answers=limiter.running, signal=signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        """Exit once no answer is running or the shutdown timeout is over; uvicorn calls this ten times a second."""
        if self.service.limiter.closing and (
            not self.service.limiter.running or time.monotonic() > self.shutdown_deadline
        ):
            self.should_exit = True
        return await super().on_tick(counter)

    def prepare(self, work: Callable[[], None]) -> None:
        """Call `work` in a thread, so that /health already responds; an exception ends the server."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised again by `serve`
                self.failure = error
                self.should_exit = True

        threading.Thread(target=run, name="loading", daemon=True).start()


def load_into(service: Service, load: Callable[[], ChatModel]) -> None:
    """Load the model of a service; it answers questions as soon as the model is warmed up."""
    started = time.perf_counter()
    model = load()
    model.warm_up()
    service.images.decoder.warm_up()
    service.model = model
    log("ready", seconds=round(time.perf_counter() - started, 3))


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as allowed, up to MAX_OPEN_FILES; return the limit."""
    if resource is None:
        return MAX_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows less than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def limit_malloc_arenas() -> None:
    """Limit the arenas of glibc's malloc, and fix its mmap threshold; other C libraries lack these settings.

    By default glibc has eight arenas per core, and memory that is freed in one cannot be reused by the others: the
    server's memory was an eighth larger and grew for minutes. glibc also raises its mmap threshold when a large block
    is freed. Later request bodies would then be allocated in arenas, which do not return their memory to the system.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, MALLOC_ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def serve(app: FastAPI, settings: Settings, prepare: Callable[[], None]) -> None:
    """Serve until a signal stops the server.

    Args:
        app: the application.
        settings: the address and the limits.
        prepare: gives the application its model; runs in a thread while the server already responds.

    Raises:
        VisualGLMError: the server cannot listen at the address, or `prepare` has raised it.
    """
    limit_malloc_arenas()
    warn_if_unauthenticated(settings)
    server = Server(app, settings)
    sock = listen(settings)
    server.prepare(prepare)
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

"""Serve VisualGLM over HTTP: the original's POST / on port 8080, and chat completions under /v1.

visualglm serve --from_pretrained visualglm-tiny
visualglm serve --host 0.0.0.0 --api-key "$KEY" --max-batch 32
visualglm serve --replicas all          one model on each GPU of this machine; needs the extra `scale`
"""

import argparse
import asyncio
import ctypes
import logging
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from model import ChatModel, SettingError
from model.checkpoint.resolve import is_interactive, resolve
from model.command_line import ArgumentParser, run_program
from visualglm.arguments import add_model_arguments, choose_loader, load_model
from visualglm.connections import ConnectionLimits, LimitedProtocol
from visualglm.scale.arguments import add_cluster_arguments, apply_cluster_file, runs_on_ray

from .app import create_app
from .listening import listen, warn_if_unauthenticated
from .request_log import log, set_up_logging
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

    def load_model(self, load: Callable[[], ChatModel]) -> None:
        """Load the model in a thread, so that /health already responds; an exception ends the server."""
        started = time.perf_counter()

        def work() -> None:
            try:
                model = load()
                model.warm_up()
                self.service.images.decoder.warm_up()
                self.service.model = model
                log("ready", seconds=round(time.perf_counter() - started, 3))
            except BaseException as error:  # raised again by `serve`
                self.failure = error
                self.should_exit = True

        threading.Thread(target=work, name="loading", daemon=True).start()


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


def serve(app: FastAPI, settings: Settings, load: Callable[[], ChatModel]) -> None:
    """Serve until a signal stops the server.

    Raises:
        VisualGLMError: the model cannot be loaded, or the server cannot listen at the address.
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


def parse_arguments(description: str | None = __doc__) -> tuple[argparse.Namespace, Settings]:
    """Parse the command line and the environment; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    Settings.add_arguments(parser)
    add_cluster_arguments(parser)
    options = parser.parse_args()
    try:
        options = apply_cluster_file(parser, options)
        options.notes = []
        settings = Settings.from_arguments(options, note=options.notes.append)
    except SettingError as error:
        parser.error(str(error))
    return options, replace(settings, model_name=settings.model_name or Path(options.from_pretrained).name)


def run(load: Callable[..., ChatModel] | None, hf: bool, description: str | None) -> None:
    """Serve the model that the command line names."""
    options, settings = parse_arguments(description)
    set_up_logging(settings.log_text)
    for note in options.notes:
        log("ignored variable", logging.WARNING, advice=note)
    if runs_on_ray(options):
        if settings.allow_explain:
            raise SettingError("--allow-explain: replicas cannot explain answers. Leave it out, or serve one model.")
        from visualglm.scale.program import serve_on_ray  # imports Ray, which the single-process server does not need

        serve_on_ray(options, settings, options.hf or hf)
        return
    load = choose_loader(options.hf or hf, load, lambda note: log("no SAT", logging.WARNING, advice=note))
    if is_interactive():  # a download may need confirmation, which the loading thread cannot ask for
        resolve(options.from_pretrained)
    # The engine's queue holds all admitted answers: they may all arrive before it starts the first of them.
    load_with_limits = partial(load, max_batch_size=settings.max_batch, max_queue_size=settings.max_concurrent_answers)
    serve(create_app(None, settings), settings, partial(load_model, options, load_with_limits))


def main(load: Callable[..., ChatModel] | None = None, *, hf: bool = False, description: str | None = __doc__) -> int:
    """Run the server; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, hf, description))

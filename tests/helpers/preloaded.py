"""Programs in processes of their own that have already imported torch, which takes seconds: forks of one process."""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
SERVER = str(Path(__file__).with_name("fork_server.py"))
# Modules that a server of forks has imported. BARE are none of ours.
BARE = ("torch",)
PROGRAMS = (
    *BARE,
    "model.visualglm",
    "model.loading",
    "model.chat_model",
    "model.hf",
    "visualglm.terminal.program",
    "visualglm.terminal.chat",
    "visualglm.server.program",
    "finetune.finetune_visualglm",
)
WEB = (*PROGRAMS, "gradio", "visualglm.web.program")


class ForkedProgram(subprocess.Popen):  # type: ignore[type-arg]
    """A `Popen` of Python's arguments that forks a process which has imported `modules`. It has a session of its own.

    A terminal as its standard input becomes its controlling terminal. Its output is UTF-8.

    Args:
        paths: are first on the import path.
        strict: makes errors of warnings.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        modules: tuple[str, ...] = PROGRAMS,
        paths: tuple[Path, ...] = (),
        strict: bool = False,
        **settings: Any,
    ) -> None:
        self.modules = modules
        self.request = {"arguments": arguments, "paths": [*map(str, paths)], "strict": strict}
        super().__init__(arguments, **settings)

    # `Popen` calls the three methods below, in all versions of Python that we support.
    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any
    ) -> None:
        pipes = rest[3:9]  # for input, output and errors; to read from and to write to
        streams = [own if given == -1 else given for own, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.request |= {
            "folder": str(Path(cwd or ".").resolve()),
            "variables": {**(os.environ if env is None else env)},
        }
        self.status, status = os.pipe()
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
                json.dump(self.request, file)
                file.seek(0)
                socket.send_fds(_start(self.modules), [b"+"], [*streams, file.fileno(), status])
        finally:
            os.close(status)
            self._close_pipe_fds(*pipes)
        self._child_created = True
        self.pid = int(self._read_status())

    def _read_status(self) -> str:
        text = b""
        while not text.endswith(b"\n") and (new := os.read(self.status, 1)):
            text += new
        assert text, "the server of forks ended"
        return text.decode()

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not wait_flags & os.WNOHANG or select.select([self.status], [], [], 0)[0]:
            code = int(self._read_status())
            os.close(self.status)
            return self.pid, code << 8 if code >= 0 else -code
        return 0, 0

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._child_created and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


@functools.cache
def _start(modules: tuple[str, ...]) -> socket.socket:
    """Start a server that imports `modules`; return the socket for requests."""
    ours, its = socket.socketpair()
    command = [sys.executable, SERVER, str(its.fileno()), str(ROOT), *modules]
    settings: dict[str, Any] = {"cwd": ROOT, "pass_fds": [its.fileno()], "start_new_session": True}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **settings)
    its.close()
    atexit.register(_stop, process, ours)
    return ours


def _stop(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.close()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_forked(
    arguments: list[str], *, timeout: float = TIMEOUT_S, typed: bytes = b"", **settings: Any
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program by `ForkedProgram` and wait for its end.

    Raises:
        subprocess.TimeoutExpired: the program does not end within `timeout`.
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ForkedProgram(arguments, **pipes, **settings) as program:
        try:
            output, errors = program.communicate(typed, timeout)
        except BaseException:
            program.kill()
            raise
    return subprocess.CompletedProcess(arguments, program.returncode, output, errors)


def run_preloaded(
    code: str,
    *paths: Path,
    strict: bool = False,
    variables: Mapping[str, str] = os.environ,
    modules: tuple[str, ...] = BARE,
) -> "subprocess.CompletedProcess[str]":
    """Run code as `python -c` does in the checkout, in a process that has imported `modules`.

    Args:
        paths: are first on the import path.
        strict: makes errors of warnings.
        variables: the environment.
    """
    settings: dict[str, Any] = {"cwd": ROOT, "env": variables, "modules": modules}
    done = run_forked(["-c", code], paths=paths, strict=strict, **settings)
    return subprocess.CompletedProcess(code, done.returncode, done.stdout.decode(), done.stderr.decode())

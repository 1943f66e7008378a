"""A process that has imported modules, and forks for each program that it is asked to run.

Started by `tests.helpers.preloaded` as a script, with the number of a socket and the modules to import. It imports
nothing of ours by itself, so that a program can do so.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import termios
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NUM_DESCRIPTORS = 5  # standard input, output and error; the request; where to write the program's id and exit status
OUTPUT_LOST = 120  # Python's exit status if it cannot write what is left of the output


def wait_for_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Serve requests until the socket closes; return the request in the process that is to run its program.

    Between the two is a process that waits for the program, so that several programs can run at a time.
    """
    waiting: set[int] = set()
    while True:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, NUM_DESCRIPTORS)
        if not descriptors:
            return None
        # Not by ignoring SIGCHLD: the processor time of these processes would not be counted as that of the tests.
        waiting -= {process for process in waiting if os.waitpid(process, os.WNOHANG)[0]}
        waiter = os.fork()
        if not waiter:
            connection.close()
            *streams, request, status = descriptors
            program = os.fork()
            if not program:
                os.close(status)
                with os.fdopen(request, encoding="utf-8") as file:
                    return json.load(file), streams
            for descriptor in (*streams, request):
                os.close(descriptor)
            os.write(status, f"{program}\n".encode())
            os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])).encode())
            os._exit(0)
        waiting.add(waiter)
        for descriptor in descriptors:
            os.close(descriptor)


def become(streams: list[int], *, folder: str, variables: dict[str, str]) -> None:
    """Give this process its standard streams, a session, a folder and an environment, as a new interpreter has them."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.setsid()
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    encoding, _, handler = variables.get("PYTHONIOENCODING", "utf-8").partition(":")
    errors = handler or "strict"
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding, errors=errors, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        buffering = 1 if number == 2 or os.isatty(number) else -1
        errors = "backslashreplace" if number == 2 else errors
        stream = open(number, "w", buffering, encoding, errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(arguments: list[str], paths: list[str], strict: bool) -> None:
    """Run a file, or what follows "-m" or "-c", as Python's command line does."""
    first, *rest = arguments
    if strict:
        warnings.simplefilter("error")
    if first == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [*paths, ""]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif first == "-m":
        sys.argv, sys.path[:0] = rest, [*paths, str(Path.cwd())]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = arguments, [*paths, str(Path(first).resolve().parent)]
        runpy.run_path(first, run_name="__main__")


def run_to_its_end(program: Callable[[], None]) -> NoReturn:
    """Run a program and its exit handlers, then exit immediately, because freeing all modules takes long."""
    status: Any = 0
    try:
        program()
    except SystemExit as ended:
        status = ended.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]  # these two as in the forks of multiprocessing
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or OUTPUT_LOST
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


def main() -> None:
    """Import the modules and serve; in a fork, run its program."""
    _, connection, root, *modules = sys.argv
    sys.path[0] = root
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # keeps the pages of these modules shared
    asked = wait_for_request(socket.socket(fileno=int(connection)))
    if asked is not None:
        request, streams = asked
        del sys.path[0]
        become(streams, folder=request["folder"], variables=request["variables"])
        run_to_its_end(lambda: run(request["arguments"], request["paths"], request["strict"]))


if __name__ == "__main__":
    main()

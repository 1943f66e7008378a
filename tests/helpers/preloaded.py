"""Interpreters that have imported torch and nothing of ours: forks of one process, as the import takes seconds."""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
# Forks for each line that it reads; prints the exit code of the fork.
SERVER = """
import json, os, sys, traceback, types, warnings
import torch

def run(code, paths, strict, environment, files):
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[:0], sys.stdin = ["-c"], paths, open(os.devnull)
    if strict:
        warnings.simplefilter("error")
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(main))

for line in sys.stdin:
    child = os.fork()
    if not child:
        status = 1
        try:
            run(*json.loads(line))
            status = 0
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            status = 1 if isinstance(ended.code, str) else ended.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _start() -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SERVER]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    atexit.register(_stop, process)
    return process


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # the forks too
    process.communicate()


def _read_status(server: "subprocess.Popen[str]") -> int:
    """Return the exit code of the fork that runs; stop the server if there is none in time."""
    assert server.stdout
    ready, _, _ = select.select([server.stdout], [], [], TIMEOUT_S)
    line = server.stdout.readline() if ready else ""
    if not line:
        _start.cache_clear()
        _stop(server)
        raise RuntimeError("the server of forks ended" if ready else f"the code ran for more than {TIMEOUT_S:g} s")
    return int(line)


def run_preloaded(
    code: str, *paths: Path, strict: bool = False, variables: Mapping[str, str] = os.environ
) -> "subprocess.CompletedProcess[str]":
    """Run code as `python -c` does in the checkout, in a process that has imported torch.

    Args:
        paths: are first on the import path.
        strict: makes errors of warnings.
        variables: the environment.

    Raises:
        RuntimeError: the code does not end within TIMEOUT_S, or the server of forks ended.
    """
    server = _start()
    assert server.stdin
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        request = [code, [*map(str, paths)], strict, {**variables}, [*map(str, files)]]
        print(json.dumps(request), file=server.stdin, flush=True)
        status = _read_status(server)
        return subprocess.CompletedProcess(code, status, *(file.read_text(encoding="utf-8") for file in files))

"""Interpreters that have imported torch and nothing of ours: forks of one process, as the import takes seconds."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
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
            status = ended.code or 0
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
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def run_preloaded(
    code: str, *paths: Path, strict: bool = False, variables: Mapping[str, str] = os.environ
) -> "subprocess.CompletedProcess[str]":
    """Run code as `python -c` does in the checkout, in a process that has imported torch.

    Args:
        paths: are first on the import path.
        strict: makes errors of warnings.
        variables: the environment.
    """
    server = _start()
    assert server.stdin and server.stdout
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        request = [code, [*map(str, paths)], strict, {**variables}, [*map(str, files)]]
        print(json.dumps(request), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(code, status, *(file.read_text(encoding="utf-8") for file in files))

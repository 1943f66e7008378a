"""Runs api.py as a subprocess and measures its memory and CPU time."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.parts.machine import ROOT

START_TIMEOUT_S = 600.0


class Server:
    """A running server and its process.

    Args:
        process: process of api.py.
        port: port on 127.0.0.1.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the text of a GET request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    @property
    def is_ready(self) -> bool:
        """Whether the server is ready to answer."""
        try:
            return self.get("/ready")[0] == 200
        except OSError:
            return False

    @property
    def model(self) -> str:
        """The name of the served model."""
        return str(json.loads(self.get("/v1/models")[1])["data"][0]["id"])

    @property
    def rss_mib(self) -> float:
        """The resident memory of the server's process, in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    @property
    def pss_mib(self) -> float:
        """The memory of the server's process and its child processes, in MiB; shared pages count once."""
        processes = [self.process.pid, *children_of(self.process.pid)]
        return sum(map(pss_kib, processes)) / 1024

    @property
    def cpu_s(self) -> float:
        """The CPU time that the server's process has used so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(process: int) -> list[int]:
    """Return the child processes of a process."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):  # the thread has just ended
            found += map(int, (task / "children").read_text().split())
    return found


def pss_kib(process: int) -> int:
    """Return the proportional set size of a process: shared pages are divided among the sharing processes."""
    with suppress(OSError):  # it has just ended
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def free_port() -> int:
    """Return an unused port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[Server]:
    """Run api.py with these flags in the block, without its log."""
    port = free_port()
    command = [sys.executable, "api.py", "--port", str(port), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    server = Server(process, port)
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while not server.is_ready:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"The server did not start. Run it manually: {' '.join(command)}")
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()

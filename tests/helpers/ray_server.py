"""A server on a local Ray, in a session of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.api_server import wait_until
from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]
START_S = 400.0  # starting Ray takes minutes on a machine that is busy
KEY = "secret"
MODEL_PROCESS = "ServeReplica:visualglm:Model"
LONG = {"text": "你好", "stream": True, "max_new_tokens": 1500, "min_length": 2000}
SHORT = {"text": "你好", "max_new_tokens": 4}


class RayServer:
    """A running server.

    Args:
        process: the program, the leader of its session.
        port: of the server.
        log: file of its standard error.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        headers = {"Authorization": f"Bearer {KEY}"}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=200, trust_env=False)

    @property
    def is_ready(self) -> bool:
        """Whether the server accepts questions; fails if its process has ended."""
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return self.client.get("/ready").status_code == 200
        return False

    @property
    def ray_address(self) -> str:
        """Address of the server's Ray."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return next(str(line["ray"]) for line in lines if line["event"] == "listening")

    def ask(self, **body: Any) -> httpx.Response:
        """Send a question in the original's protocol."""
        return self.client.post("/", json=SHORT | body)

    def metric(self, name: str, labels: str = "") -> float:
        """Return the value of a metric, 0 if there is none."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + labels))

    def processes(self, title: str = "") -> list[int]:
        """Return the processes of the session whose command line contains `title`, without zombies."""
        names = [path.name for path in Path("/proc").iterdir()]
        return [pid for pid in map(int, filter(str.isdecimal, names)) if self._is_own(pid, title)]

    def _is_own(self, pid: int, title: str) -> bool:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            state, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return title in command and state != "Z" and os.getsid(pid) == self.process.pid
        return False


class Stream(threading.Thread):
    """A streamed answer in the original's protocol, read by a thread of its own."""

    def __init__(self, server: RayServer, **body: Any) -> None:
        super().__init__()
        self.server, self.body = server, LONG | body
        self.events: list[dict[str, Any]] = []
        self.status = 0
        self.start()

    def run(self) -> None:
        """Read the events."""
        with self.server.client.stream("POST", "/", json=self.body) as response:
            self.status = response.status_code
            for line in response.iter_lines():
                if line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))

    @property
    def is_complete(self) -> bool:
        """Whether the answer arrived to its end."""
        return bool(self.events) and "response" in self.events[-1]


def cpu_ticks(pid: int) -> int:
    """Return the CPU time of a process in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@contextmanager
def ray_server(folder: Path, *flags: str) -> Iterator[RayServer]:
    """Context manager: run `visualglm serve` with these flags; all its processes end with the block."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "visualglm", "serve", "--device", "cpu", "--port", str(port), "--api-key", KEY]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=variables, stdout=errors, stderr=errors, start_new_session=True
        )
    server = RayServer(process, port, log)
    try:
        wait_until(lambda: server.is_ready, START_S)
        yield server
    finally:
        server.client.close()
        for pid in server.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

"""Servers on a Ray of their own: one that starts its Ray, and one that is deployed on a node. Each has a session."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.api_server import wait_until
from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]
START_S = 400.0  # starting Ray takes minutes on a machine that is busy
ATTEMPTS = 4  # Ray gives a node 30 seconds to start, which a busy machine exceeds now and then
KEY = "secret"
MODEL_PROCESS = "ServeReplica:visualglm:Model"
LONG = {"text": "你好", "stream": True, "max_new_tokens": 1500, "min_length": 2000}
SHORT = {"text": "你好", "max_new_tokens": 4}
VARIABLES = os.environ | {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # a busy machine needs more than the default of 5 s
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # use the loopback address
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "visualglm.scale.proxy:middlewares",
    "PYTHONPATH": str(ROOT),  # Ray Serve's HTTP servers import the middleware
}


class RayServer:
    """A running server.

    Args:
        process: the leader of the session: the program, or Ray's node.
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
    with running(RayServer(start([*command, *flags], log), port, log)) as server:
        wait_until(lambda: server.is_ready, START_S)
        yield server


@contextmanager
def deployed_server(folder: Path, settings: str) -> Iterator[tuple[RayServer, Callable[[str], None]]]:
    """Context manager: start a node of Ray and deploy a server on it; all processes end with the block.

    Args:
        folder: for files.
        settings: the file of `--config`, in which `PORT` and `KEY` are replaced.

    Yields:
        The server, and a function that deploys it again with other settings.
    """
    port, ray_port, log, path = free_port(), free_port(), folder / "node.log", folder / "cluster.yaml"
    node = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={ray_port}"]
    node += ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false"]
    server = RayServer(start_node(node, log), port, log)

    def deploy(text: str) -> None:
        path.write_text(text.replace("PORT", str(port)).replace("KEY", KEY), encoding="utf-8")
        address = f"127.0.0.1:{ray_port}"
        command = [sys.executable, "-m", "visualglm", "serve", "--ray", address, "--config", str(path)]
        done = subprocess.run(command, cwd=ROOT, env=VARIABLES, capture_output=True, text=True, timeout=START_S)
        assert done.returncode == 0, done.stderr

    with running(server):
        deploy(settings)
        wait_until(lambda: server.is_ready, START_S)
        yield server, deploy


def start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program as the leader of a session."""
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, env=VARIABLES, stdout=file, stderr=file, start_new_session=True)


def start_node(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a node of Ray; a start that takes too long is tried again."""
    for _ in range(ATTEMPTS):
        process = start(command, log)
        wait_until(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, START_S)  # noqa: B023
        if process.poll() is None:
            break
    return process


@contextmanager
def running(server: RayServer) -> Iterator[RayServer]:
    """Context manager: all processes of the server's session end with the block."""
    try:
        yield server
    finally:
        server.client.close()
        for pid in server.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.wait()

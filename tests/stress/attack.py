"""Attack the server for minutes: it must stay responsive, use bounded memory, and shut down on SIGTERM.

python -m tests.stress.attack
python -m tests.stress.attack --clients 16 --seconds 20 --calm 10

Four clients send light requests about an image, first alone, and then while other clients send costly images, costly
bodies and slow requests (tests/stress/attackers.py). The server, `api.py`, and the attackers are separate processes.
Exits with 1 unless, under attack:
- the 95th percentile of the light requests is at most 3 times that of the baseline, in the same run;
- GET /health always answers within 0.3 s;
- the memory of the server and its child processes (PSS) stays under 1.5 GiB;
- there is no 5xx status except 503;
- SIGTERM ends the server within its --shutdown-timeout, without orphaned child processes.
"""

import argparse
import asyncio
import base64
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.parts.http_client import send, to_request
from benchmarks.parts.http_server import Server, children_of, serving
from benchmarks.parts.machine import ROOT, describe_machine, min_int
from benchmarks.parts.streams import percentile
from benchmarks.parts.table import show
from model.command_line import ArgumentParser, run_program

NORMAL_CLIENTS = 4
PAUSE_S = 0.1  # pause of a normal client between an answer and the next request
MAX_SLOWDOWN, MAX_HEALTH_S, MAX_MIB = 3.0, 0.3, 1536.0
SHUTDOWN_S = 60
EXAMPLE_IMAGE = ROOT / "examples" / "scene.png"


@dataclass
class Measured:
    """The measurements of one phase."""

    answers: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def light_request() -> bytes:
    """Return a request about an image with a short answer."""
    image = base64.b64encode(EXAMPLE_IMAGE.read_bytes()).decode()
    body = {"text": "What is in the picture?", "image": image, "max_new_tokens": 16, "temperature": 0}
    return to_request(json.dumps(body).encode(), "/")


async def send_light_requests(server: Server, end: float, measured: Measured) -> None:
    """Send light requests sequentially."""
    request = light_request()
    while time.monotonic() < end:
        result = await send(server.port, request)
        measured.statuses.append(result.status)
        if result.status == 200:
            measured.answers.append(result.total_s)
        await asyncio.sleep(PAUSE_S)


async def monitor_health(server: Server, end: float, measured: Measured) -> None:
    """Request /health twenty times per second, and sample the memory once per second."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    noted = 0.0
    while time.monotonic() < end:
        result = await send(server.port, request)
        measured.health.append(result.total_s)
        measured.statuses.append(result.status)
        if time.monotonic() - noted >= 1:
            noted = time.monotonic()
            measured.memory.append(await asyncio.to_thread(lambda: server.pss_mib))
        await asyncio.sleep(0.05)


async def measure(server: Server, seconds: float) -> Measured:
    """Measure light requests, /health and memory for `seconds`."""
    measured, end = Measured(), time.monotonic() + seconds
    good = (send_light_requests(server, end, measured) for _ in range(NORMAL_CLIENTS))
    await asyncio.gather(monitor_health(server, end, measured), *good)
    return measured


def attack(server: Server, clients: int, seconds: float) -> tuple[Measured, dict[str, object], float, bool]:
    """Measure under attack, then stop the server during the attack.

    Returns:
        The measurements, the attackers' report, the seconds until the server ended, and whether a child process is
        left.
    """
    command = [sys.executable, "-m", "tests.stress.attackers", str(server.port), server.model, str(clients)]
    with subprocess.Popen([*command, str(seconds + 10)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as attackers:
        assert attackers.stdout is not None
        attackers.stdout.readline()  # wait until it has created its files
        measured = asyncio.run(measure(server, seconds))
        children = children_of(server.process.pid)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(SHUTDOWN_S + 10)
        stopping_s = time.monotonic() - started
        report = json.loads(attackers.stdout.readline())
    return measured, report, stopping_s, any(Path(f"/proc/{child}").exists() for child in children)


def failed_checks(
    baseline: Measured, under_attack: Measured, report: dict[str, object], stopping_s: float, left: bool
) -> list[str]:
    """Print the measurements, and return the names of failed checks."""
    before, under = percentile(baseline.answers, 0.95), percentile(under_attack.answers, 0.95)
    failed = sorted({status for status in under_attack.statuses if status >= 500 and status != 503})
    refused = sum(status != 200 for status in under_attack.statuses)
    show(
        f"Light requests, 95 %: {before:.3f} s alone ({len(baseline.answers)}), "
        f"{under:.3f} s ({len(under_attack.answers)}), "
    )
    show(f"  {under / before:.2f} x; at most {MAX_SLOWDOWN:g} x. Statuses other than 200: {refused}.")
    median, latest = percentile(under_attack.health, 0.5), max(under_attack.health)
    show(f"/health: {median:.3f} s median, {latest:.3f} maximum; limit {MAX_HEALTH_S}.")
    show(f"Memory: {max(baseline.memory):.0f} MiB alone, {max(under_attack.memory):.0f} maximum; limit {MAX_MIB:.0f}.")
    show(f"Statuses of the attackers: {report['statuses']}.")
    show(f"SIGTERM: {stopping_s:.1f} s; at most {SHUTDOWN_S}.")
    checks = {
        "light requests are slow": under > MAX_SLOWDOWN * before,
        "/health is late": latest > MAX_HEALTH_S,
        "too much memory": max(under_attack.memory) >= MAX_MIB,
        f"statuses {failed} {report['failures']}": bool(failed or report["failures"]),
        "stopping is slow": stopping_s > SHUTDOWN_S,
        "a child process is left": left,
    }
    return [name for name, fails in checks.items() if fails]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR")
    parser.add_argument("--clients", type=min_int(1), default=60, help="attacking clients (default %(default)s)")
    parser.add_argument("--seconds", type=min_int(3), default=180, help="duration of the attack (default %(default)s)")
    parser.add_argument(
        "--calm", type=min_int(3), default=30, help="duration of the baseline in seconds (default %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """Run, print the verdict, and exit with 1 on failure."""
    options = parse_arguments()
    show(f"{describe_machine()}, {options.from_pretrained}, attackers: {options.clients}\n")
    with serving(["--from_pretrained", options.from_pretrained, "--shutdown-timeout", str(SHUTDOWN_S)]) as server:
        baseline = asyncio.run(measure(server, options.calm))
        failures = failed_checks(baseline, *attack(server, options.clients, options.seconds))
    show(f"FAILED: {'; '.join(failures)}." if failures else "Passed.")
    sys.exit(bool(failures))


if __name__ == "__main__":
    sys.exit(run_program(main))

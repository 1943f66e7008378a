"""Load test of the server for minutes: no 5xx, no stuck request, bounded latency and memory.

python -m tests.stress.server_load
python -m tests.stress.server_load --clients 16 --seconds 20 --warm_up 5

Each of `--clients` clients sends one request after another: streamed or not, with a new image, a repeated one, or none,
for an answer of random length. Some clients disconnect at a random time, and some requests are invalid and must get a
4xx. The server, `api.py`, is a subprocess, and this process is the client. The server's memory is sampled: its mean
over
the last third may exceed that over the first third after the warm-up by at most 5 %. The 95th percentile of the time to
first token may be at most 4 times the median, unless clients pause between requests (--pause_s). Exits with 1 if any
condition is violated.
"""

import argparse
import asyncio
import collections
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass

from benchmarks.parts.http_client import RequestResult, completion, random_png, send, to_request
from benchmarks.parts.http_server import Server, serving
from benchmarks.parts.machine import describe_machine, min_int
from benchmarks.parts.streams import percentile
from benchmarks.parts.table import show
from model.command_line import ArgumentParser, run_program

INVALID_RATE, DISCONNECT_RATE = 0.1, 0.2  # shares of all requests
REPEATED_IMAGES = 8  # images that are used repeatedly
MAX_ANSWER_TOKENS = 128
MAX_DISCONNECT_S = 3.0  # after which a disconnecting client has left
STUCK_AFTER_S = 120.0
MAX_GROWTH, MAX_SPREAD = 0.05, 4.0
INVALID_JSON = b"x"
BAD_BODIES = (
    INVALID_JSON,
    b"[]",
    b'{"model": "another", "messages": [{"role": "user", "content": "hello"}]}',
    b'{"model": "MODEL", "messages": []}',
    b'{"model": "MODEL", "messages": [{"role": "user", "content": "hello"}], "temperature": -1}',
    b'{"model": "MODEL", "messages": [{"role": "user", "content": "hello"}], "tools": [{}]}',
    b'{"model": "MODEL", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, '
    b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,bm8gcGljdHVyZQ=="}}]}]}',
)


@dataclass(frozen=True)
class PlannedRequest:
    """One request, and its expected result."""

    body: bytes
    is_bad: bool = False
    streamed: bool = False
    tokens: int = 0
    disconnect_after_s: float | None = None


class LoadTest:
    """Clients that send one request after another.

    Args:
        server: the server.
        pause_s: mean pause between an answer and the next request.
    """

    def __init__(self, server: Server, pause_s: float) -> None:
        self.server, self.pause_s = server, pause_s
        self.model = server.model
        self.rng = random.Random(0)
        self.next_image = REPEATED_IMAGES
        self.counts: collections.Counter[str] = collections.Counter()
        self.firsts: list[float] = []
        self.waits: list[float] = []
        self.failures: list[str] = []

    def sample_request(self) -> PlannedRequest:
        """Sample the next request."""
        rng = self.rng
        if rng.random() < INVALID_RATE:
            return PlannedRequest(rng.choice(BAD_BODIES).replace(b"MODEL", self.model.encode()), is_bad=True)
        image = None
        if rng.random() < 0.75:
            self.next_image += 1
            known = rng.random() < 0.25
            image = random_png(rng.choice((16, 64, 128)), rng.randrange(REPEATED_IMAGES) if known else self.next_image)
        tokens, streamed = rng.randint(1, MAX_ANSWER_TOKENS), rng.random() < 0.75
        text = "Describe the image." + " And then?" * rng.choice((0, 0, 5, 50))
        body = completion(self.model, tokens, rng.randrange(2**31), image, stream=streamed, text=text)
        disconnect_after_s = rng.uniform(0, MAX_DISCONNECT_S) if rng.random() < DISCONNECT_RATE else None
        return PlannedRequest(json.dumps(body).encode(), False, streamed, tokens, disconnect_after_s)

    async def run_client(self, end: float) -> None:
        """Send requests until the time is over."""
        while time.monotonic() < end:
            plan = self.sample_request()
            try:
                async with asyncio.timeout(STUCK_AFTER_S):
                    self.check(plan, await send(self.server.port, to_request(plan.body), plan.disconnect_after_s))
            except (TimeoutError, OSError) as error:
                self.fail(f"{type(error).__name__}: {error}")
            await asyncio.sleep(self.rng.expovariate(1 / self.pause_s) if self.pause_s else 0)

    def check(self, plan: PlannedRequest, result: RequestResult) -> None:
        """Count the result of a request, and check it."""
        if result.status == 429:
            self.counts["refused"] += 1
        elif plan.is_bad:
            self.expect(400 <= result.status < 500, plan, result)
            self.counts["bad"] += 1
        elif plan.disconnect_after_s is not None and not result.is_complete:
            self.expect(result.status in (0, 200), plan, result)
            self.counts["left"] += 1
        else:
            self.expect((result.status, result.tokens, result.is_complete) == (200, plan.tokens, True), plan, result)
            self.counts["answered"] += 1
            self.counts["tokens"] += result.tokens
        if result.status == 200 and plan.streamed:
            self.firsts.append(result.first_s)
            self.waits.append(result.longest_wait_s)

    def expect(self, holds: bool, plan: PlannedRequest, result: RequestResult) -> None:
        """Record a failure unless the condition holds."""
        if not holds:
            expected = f"{plan.tokens} tokens, invalid: {plan.is_bad}, disconnect after: {plan.disconnect_after_s}"
            self.fail(f"requested {expected}; got {result}")

    def fail(self, text: str) -> None:
        """Record a failure, and print it."""
        self.failures.append(text)
        show(f"FAILED: {text}")

    def reset(self) -> None:
        """Reset the counts after the warm-up."""
        self.counts.clear()
        self.firsts.clear()
        self.waits.clear()


async def monitor(load_test: LoadTest, warm_up: float, seconds: float, every_s: float) -> list[float]:
    """Print the progress; return the server's memory in MiB, sampled each second after the warm-up."""
    started, samples = time.monotonic(), list[float]()
    for second in range(1, int(warm_up + seconds) + 1):
        await asyncio.sleep(started + second - time.monotonic())
        if second == int(warm_up):
            load_test.reset()
        memory = load_test.server.rss_mib
        if second > warm_up:
            samples.append(memory)
        if second % every_s == 0:
            counts = ", ".join(f"{number:,} {name}" for name, number in sorted(load_test.counts.items()))
            show(f"{second:6.0f} s: {counts or 'none yet'}; server {memory:.0f} MiB")
    return samples


async def run(server: Server, options: argparse.Namespace) -> tuple[LoadTest, list[float]]:
    """Run the load test; return it, and the samples of the server's memory."""
    load_test = LoadTest(server, options.pause_s)
    end = time.monotonic() + options.warm_up + options.seconds
    visitors = [asyncio.create_task(load_test.run_client(end)) for _ in range(options.clients)]
    samples = await monitor(load_test, options.warm_up, options.seconds, options.every_s)
    await asyncio.gather(*visitors)
    return load_test, samples


def check_memory(load_test: LoadTest, samples: list[float]) -> None:
    """Print the growth of memory, and fail if it is too large."""
    third = max(1, len(samples) // 3)
    first, last = statistics.mean(samples[:third]), statistics.mean(samples[-third:])
    growth = last / first - 1
    allowed = f"at most {MAX_GROWTH:+.0%}"
    show(f"Memory: {first:.0f} MiB in the first third, {last:.0f} in the last: {growth:+.1%}; {allowed}.")
    if growth > MAX_GROWTH:
        load_test.fail("memory grows")


def check_latency(load_test: LoadTest) -> None:
    """Print the latencies, and fail if their spread is too large."""
    for name, seconds in (("First token", load_test.firsts), ("Longest gap within an answer", load_test.waits)):
        spread = ", ".join(f"{share:.0%} {percentile(seconds, share):.3f} s" for share in (0.5, 0.95, 1.0))
        show(f"{name}, {len(seconds)} streams: {spread}.")
    median, most = (percentile(load_test.firsts, share) for share in (0.5, 0.95))
    show(f"The 95th percentile of time to first token is {most / median:.2f} x the median; at most {MAX_SPREAD:g} x.")
    # With pauses, most requests find a free slot, and the ratio only shows how often there was none.
    if most > MAX_SPREAD * median and not load_test.pause_s:
        load_test.fail("some requests wait much longer than the median")


def check_idle(load_test: LoadTest) -> None:
    """Fail if the server still has active answers after all clients have left."""
    end = time.monotonic() + STUCK_AFTER_S
    while "visualglm_answers 0.0" not in load_test.server.get("/metrics")[1]:
        if time.monotonic() > end:
            load_test.fail("answers are still active after all clients have left")
            return
        time.sleep(0.1)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR")
    parser.add_argument("--clients", type=min_int(1), default=64, help="default %(default)s")
    parser.add_argument("--seconds", type=min_int(3), default=180, help="duration in seconds (default %(default)s)")
    parser.add_argument("--pause_s", type=float, default=0.0, help="mean pause between requests in seconds")
    parser.add_argument("--warm_up", type=min_int(0), default=60, help="warm-up in seconds (default %(default)s)")
    parser.add_argument("--every_s", type=min_int(1), default=20, help="seconds between lines (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Run, print the verdict, and exit with 1 on failure."""
    options = parse_arguments()
    show(f"{describe_machine()}, {options.from_pretrained}, clients: {options.clients}\n")
    with serving(["--from_pretrained", options.from_pretrained]) as server:
        load_test, samples = asyncio.run(run(server, options))
        check_idle(load_test)
    check_memory(load_test, samples)
    check_latency(load_test)
    verdict = f"FAILED, {len(load_test.failures)} times" if load_test.failures else "Passed"
    show(f"{verdict}: {dict(sorted(load_test.counts.items()))}.")
    sys.exit(bool(load_test.failures))


if __name__ == "__main__":
    sys.exit(run_program(main))

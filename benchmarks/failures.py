"""Measure the cost of a killed replica: lost streams, gaps and recovery time.

python -m benchmarks.failures

Two replicas answer `--count` streams, each at most half of them at once. One replica is killed when all streams run.
    complete     streams that arrive to their end
    gap          longest time between two events of such a stream
    undisturbed  the same while no replica is killed
    recovery     time until both replicas accept questions again
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from benchmarks.parts.http_client import completion
from benchmarks.parts.http_server import Server, children_of
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.served_model import add_served_model_arguments, served_model
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_least, at_most, run_table
from benchmarks.scale import Client, running_client
from model.command_line import ArgumentParser, run_program
from model.placement import choose_device

REPLICAS = 2
REPLICA_PROCESS = b"ServeReplica:visualglm:Model"
MAX_GAP_S = 1.0
MAX_RECOVERY_S = 40.0
POLL_S = 0.1
TIMEOUT_S = 600.0


class FailureBenchmark:
    """Kills one of two replicas while both answer.

    Args:
        client: asks the server.
        count, tokens: number of concurrent streams, and tokens of an answer.
    """

    def __init__(self, client: Client, count: int, tokens: int) -> None:
        self.client = client
        self.count, self.tokens = count, tokens
        self.recovery_s = 0.0

    @cached_property
    def undisturbed(self) -> list[dict[str, Any]]:
        """Results of the streams while nothing fails, after an uncounted round."""
        self.ask()
        return self.ask()

    @cached_property
    def disturbed(self) -> list[dict[str, Any]]:
        """Results of the streams while a replica is killed."""
        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(self.kill)
            outcomes = self.ask()
            killed.result()
        return outcomes

    def ask(self) -> list[dict[str, Any]]:
        """Start all streams at once; return their results."""
        bodies = [completion(self.client.server.model, self.tokens, seed, stream=True) for seed in range(self.count)]
        outcomes: list[dict[str, Any]] = self.client.send(bodies)["outcomes"]
        return outcomes

    def kill(self) -> None:
        """Kill a replica when all streams are running; measure the time until there are two again."""
        server = self.client.server
        wait_until(lambda: metric(server, "visualglm_answers") == self.count)
        os.kill(replica_processes(server)[0], signal.SIGKILL)
        start = time.monotonic()
        wait_until(lambda: metric(server, "visualglm_replicas") < REPLICAS)
        wait_until(lambda: metric(server, "visualglm_replicas") == REPLICAS)
        self.recovery_s = time.monotonic() - start

    def complete(self) -> tuple[float, str]:
        """Return how many streams arrived to their end, and how many did not."""
        arrived = sum(one["tokens"] == self.tokens for one in self.disturbed)
        return arrived, f"{self.count - arrived} ended with the killed replica"

    def gap(self) -> float:
        """Return the longest gap in a stream that arrived to its end, in s."""
        return max(one["longest_wait_s"] for one in self.disturbed if one["tokens"] == self.tokens)

    def undisturbed_gap(self) -> float:
        """Return the longest gap in a stream while nothing fails, in s."""
        return max(float(one["longest_wait_s"]) for one in self.undisturbed)

    def recovery(self) -> float:
        """Return the time from the kill until two replicas accept questions, in s."""
        assert self.disturbed
        return self.recovery_s


def metric(server: Server, name: str) -> float:
    """Return the value of one of the server's metrics, 0 if there is none."""
    lines = server.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def replica_processes(server: Server) -> list[int]:
    """Return the processes of the replicas."""
    found, todo = [], [server.process.pid]
    for process in todo:
        with suppress(FileNotFoundError, ProcessLookupError):  # a process of Ray may end meanwhile
            todo += children_of(process)
            if REPLICA_PROCESS in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true.

    Raises:
        TimeoutError: it takes longer than `TIMEOUT_S`.
    """
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened for {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def make_benchmark(options: argparse.Namespace, stack: ExitStack) -> FailureBenchmark:
    """Start the server and the client; `stack` stops them."""
    model = stack.enter_context(served_model(options))
    flags = ["--from_pretrained", model, "--device", options.device, "--replicas", str(REPLICAS)]
    # The queue is for a round that starts before the replicas have noticed the end of the last one.
    flags += ["--max-batch", str(options.count // REPLICAS), "--max-queue", str(options.count)]
    client = stack.enter_context(running_client(flags))
    wait_until(lambda: metric(client.server, "visualglm_replicas") == REPLICAS)
    return FailureBenchmark(client, options.count, options.tokens)


def make_rows(count: int) -> list[Row]:
    """Return all rows."""
    streams = f"{count} streams, one of two replicas killed"
    return [
        Row("undisturbed", f"{count} streams, longest gap, s", FailureBenchmark.undisturbed_gap),
        Row("complete", f"{streams}, complete streams", FailureBenchmark.complete, at_least(count / REPLICAS)),
        Row("gap", f"{streams}, longest gap of a complete one, s", FailureBenchmark.gap, at_most(MAX_GAP_S)),
        Row("recovery", "two replicas again, s", FailureBenchmark.recovery, at_most(MAX_RECOVERY_S)),
    ]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    add_served_model_arguments(parser)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if available)")
    parser.add_argument("--count", type=min_int(2), default=64, help="concurrent streams (default %(default)s)")
    parser.add_argument("--tokens", type=min_int(2), default=256, help="tokens of an answer (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    device = choose_device(options.device)
    options.device = device.type
    heading = f"{describe_machine(name_gpu(device))}, {options.from_pretrained}"
    with ExitStack() as stack:
        run_table(
            options, heading, [Stage("failures", partial(make_benchmark, options, stack), make_rows(options.count))]
        )


if __name__ == "__main__":
    sys.exit(run_program(main))

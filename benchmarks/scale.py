"""Loss of Ray Serve against the plain server, both with one model; servers and client are separate processes.

python -m benchmarks.scale
python -m benchmarks.scale --count 64 --device cuda --from_pretrained visualglm-6b
python -m benchmarks.scale --count 64 --device cuda --from_pretrained full-size   random weights, in temporary files

Each row sends `--count` concurrent requests for `--tokens` tokens to both servers in turn, for `--repetitions` rounds
after an uncounted one.
    streams, streams-images   median loss of tokens/s
    first, first-images       median of how much later the first event arrives
In the rows with images, each request has its own image.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from typing import Any

from benchmarks.parts.http_client import completion, random_png
from benchmarks.parts.http_server import Server, serving
from benchmarks.parts.machine import ROOT, describe_machine, min_int, name_gpu
from benchmarks.parts.served_model import add_served_model_arguments, served_model
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_most, run_table
from model.command_line import ArgumentParser, run_program
from model.placement import DTYPES, choose_device

IMAGE_SIZE = 64
MAX_LOSS = {"cpu": at_most(15), "cuda": at_most(10)}  # % of the plain server's tokens/s
MAX_DELAY_MS = at_most(80)
MS = 1000


@dataclass
class Client:
    """A client process and the server that it asks, with the results of all rounds."""

    server: Server
    process: "subprocess.Popen[str]"
    rates: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)

    def send(self, bodies: list[dict[str, Any]]) -> dict[str, Any]:
        """Send requests at once; return the client's report."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps(bodies), file=self.process.stdin, flush=True)
        report: dict[str, Any] = json.loads(self.process.stdout.readline())
        return report

    def ask(self, bodies: list[dict[str, Any]], tokens: int) -> None:
        """Send requests at once, and store tokens/s and the median time to the first event.

        Raises:
            RuntimeError: an answer is incomplete.
        """
        report = self.send(bodies)
        for one in report["outcomes"]:
            if (one["status"], one["tokens"]) != (200, tokens):
                raise RuntimeError(f"An answer is incomplete: {one}.")
        self.rates.append(len(bodies) * tokens / report["seconds"])
        self.firsts.append(statistics.median(one["first_s"] for one in report["outcomes"]))


class ScaleBenchmark:
    """Compares the plain server with Ray Serve.

    Args:
        clients: of the plain server and of Ray Serve.
        count, tokens: number of concurrent requests, and tokens of an answer.
        repetitions: rounds to measure.
    """

    def __init__(self, clients: tuple[Client, Client], count: int, tokens: int, repetitions: int) -> None:
        self.clients = clients
        self.count, self.tokens, self.repetitions = count, tokens, repetitions
        self.seed = 0

    def loss(self, with_images: bool) -> tuple[float, str]:
        """Return the loss of tokens/s in percent, and the numbers behind it."""
        plain, ray = self.measure(with_images)
        lost = [1 - ours / theirs for ours, theirs in zip(ray.rates, plain.rates, strict=True)]
        rates = " and ".join(f"{statistics.median(one.rates):.0f}" for one in (plain, ray))
        return 100 * statistics.median(lost), f"{rates} tokens/s; lost {100 * min(lost):.0f} to {100 * max(lost):.0f} %"

    def delay(self, with_images: bool) -> tuple[float, str]:
        """Return how much later the first event arrives, in ms, and the numbers behind it."""
        plain, ray = self.measure(with_images)
        later = [MS * (ours - theirs) for ours, theirs in zip(ray.firsts, plain.firsts, strict=True)]
        firsts = " and ".join(f"{MS * statistics.median(one.firsts):.0f}" for one in (plain, ray))
        return statistics.median(later), f"{firsts} ms; {min(later):.0f} to {max(later):.0f} ms later"

    def measure(self, with_images: bool) -> tuple[Client, Client]:
        """Ask both servers in turn; return their clients with the results."""
        for client in self.clients:
            client.rates, client.firsts = [], []
        for _ in range(self.repetitions + 1):
            for client in self.clients:
                client.ask(self.bodies(client.server.model, with_images), self.tokens)
        for client in self.clients:
            del client.rates[0], client.firsts[0]
        return self.clients

    def bodies(self, model: str, with_images: bool) -> list[dict[str, Any]]:
        """Return the bodies of new requests."""
        self.seed += self.count
        seeds = range(self.seed, self.seed + self.count)
        images = [random_png(IMAGE_SIZE, seed) if with_images else None for seed in seeds]
        return [completion(model, self.tokens, seed, one, stream=True) for seed, one in zip(seeds, images, strict=True)]


@contextmanager
def running_client(flags: list[str]) -> Iterator[Client]:
    """Run a server with these flags and its client in the block."""
    with serving(flags) as server:
        command = [sys.executable, "-m", "benchmarks.parts.http_client", str(server.port)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            yield Client(server, process)
        finally:
            process.terminate()
            process.wait()


def make_benchmark(options: argparse.Namespace, stack: ExitStack) -> ScaleBenchmark:
    """Start servers and clients; `stack` stops them."""
    chosen = {name: getattr(options, name) for name in ("device", "dtype", "quant") if getattr(options, name)}
    flags = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    flags += ["--from_pretrained", stack.enter_context(served_model(options)), "--max-batch", str(options.count)]
    plain = stack.enter_context(running_client(flags))
    ray = stack.enter_context(running_client([*flags, "--replicas", "1"]))
    return ScaleBenchmark((plain, ray), options.count, options.tokens, options.repetitions)


def make_rows(options: argparse.Namespace) -> list[Row]:
    """Return all rows."""
    limit = MAX_LOSS["cuda" if options.device.startswith("cuda") else "cpu"]
    requests = f"{options.count} x {options.tokens} tokens"
    rows = []
    for more, with_images in (("", False), ("-images", True)):
        lost, later = f"{requests}, % of the plain server's tokens/s lost", f"{requests}, first event, ms later"
        rows.append(Row(f"streams{more}", lost, methodcaller("loss", with_images), limit))
        rows.append(Row(f"first{more}", later, methodcaller("delay", with_images), MAX_DELAY_MS))
    return rows


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    add_served_model_arguments(parser)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if available)")
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--quant", type=int, choices=(8, 4), help="quantize the language model to this many bits")
    parser.add_argument("--count", type=min_int(1), default=16, help="concurrent requests (default %(default)s)")
    parser.add_argument("--tokens", type=min_int(2), default=128, help="tokens of an answer (default %(default)s)")
    parser.add_argument("--repetitions", type=min_int(1), default=9, help="rounds (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    device = choose_device(options.device)
    options.device = device.type
    with ExitStack() as stack:
        stage = Stage("scale", partial(make_benchmark, options, stack), make_rows(options))
        run_table(options, f"{describe_machine(name_gpu(device))}, {options.from_pretrained}", [stage])


if __name__ == "__main__":
    sys.exit(run_program(main))

"""Overhead of the HTTP layer over the engine alone; server and client are separate processes.

python -m benchmarks.http_overhead
python -m benchmarks.http_overhead --only http/streams --device cuda --from_pretrained visualglm-6b
python -m benchmarks.http_overhead --device cuda --from_pretrained full-size   random weights, in temporary files

Each row sends `--count` concurrent requests over HTTP, and the same requests (prompts, settings and seeds) to the
scheduler, from threads of this process. Both alternate for `--repetitions` rounds, after an uncounted one. The result
is the median loss of tokens/s.
    streams, streams-images   answers as server-sent events
    whole, whole-images       non-streaming answers
In the rows with images, each request has its own image, which both sides decode and encode.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from PIL import Image

from benchmarks.parts.http_client import MIN_LENGTH, QUESTION, completion, random_png
from benchmarks.parts.http_server import Server, serving
from benchmarks.parts.machine import ROOT, describe_machine, min_int, name_gpu
from benchmarks.parts.served_model import add_served_model_arguments, served_model
from benchmarks.parts.streams import StreamReader
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_most, run_table
from model import DEMO, ENGLISH, Conversation, SatChatModel, load_sat
from model.command_line import ArgumentParser, run_program
from model.engine import Request
from model.placement import DTYPES

IMAGE_SIZE = 64
TARGET_COUNT = 16
TARGET_OVERHEAD = {"cpu": at_most(25), "cuda": at_most(10)}  # % of the engine's tokens/s, at TARGET_COUNT streams


class OverheadBenchmark:
    """Compares a server and its client with the engine alone in this process.

    Args:
        model: model of the engine.
        server: server of the same model.
        client: a process of `http_client`.
        count, tokens: number of concurrent requests, and tokens of an answer.
        repetitions: rounds to measure.
    """

    def __init__(
        self,
        model: SatChatModel,
        server: Server,
        client: "subprocess.Popen[str]",
        count: int,
        tokens: int,
        repetitions: int,
    ) -> None:
        self.model, self.server, self.client = model, server, client
        self.count, self.tokens, self.repetitions = count, tokens, repetitions
        self.seed = 0

    def overhead(self, stream: bool, with_images: bool) -> tuple[float, str]:
        """Return the loss of tokens/s over HTTP in percent, and the numbers behind it."""
        engine, http, costs = [], [], []
        for _ in range(self.repetitions + 1):
            engine.append(self.ask_engine(self.random_images(with_images)))
            before = self.server.cpu_s
            seconds, answers = self.ask_server(self.random_images(with_images), stream)
            http.append(self.count * self.tokens / seconds)
            costs.append((self.server.cpu_s - before, answers["cpu_s"], mean_events(answers)))
        lost = [1 - over / alone for over, alone in zip(http[1:], engine[1:], strict=True)]
        rates = f"{statistics.median(engine[1:]):.0f} tokens/s alone, {statistics.median(http[1:]):.0f} over HTTP"
        server_s, client_s, events = (statistics.median(column) for column in zip(*costs[1:], strict=True))
        spread = f"lost {100 * min(lost):.0f} to {100 * max(lost):.0f} %"
        note = (
            f"{rates}; {spread}; CPU: server {server_s:.2f} s, client {client_s:.2f} s; {events:.0f} events per answer"
        )
        return 100 * statistics.median(lost), note

    def random_images(self, wanted: bool) -> list[bytes | None]:
        """Return a new image for each request, or None for each."""
        self.seed += self.count
        return [random_png(IMAGE_SIZE, self.seed + n) if wanted else None for n in range(self.count)]

    def ask_engine(self, images: list[bytes | None]) -> float:
        """Return tokens/s of requests sent directly to the scheduler."""
        scheduler = self.model.scheduler
        streams = [StreamReader(scheduler.submit, partial(self._request, n, one)) for n, one in enumerate(images)]
        for one in streams:
            one.join(self.tokens)
        seconds = max(one.times[-1] for one in streams) - min(one.started for one in streams)
        return self.count * self.tokens / seconds

    def _request(self, seed: int, png: bytes | None) -> Request:
        config = DEMO.replace(max_new_tokens=self.tokens, min_length=MIN_LENGTH, seed=seed)
        image = None if png is None else Image.open(io.BytesIO(png))
        return self.model.make_request(Conversation(image, [], ENGLISH), QUESTION, config)[1]

    def ask_server(self, images: list[bytes | None], stream: bool) -> tuple[float, dict[str, Any]]:
        """Return the seconds that the same requests take over HTTP, and the client's report.

        Raises:
            RuntimeError: an answer is incomplete.
        """
        name = self.server.model
        bodies = [completion(name, self.tokens, n, one, stream=stream) for n, one in enumerate(images)]
        assert self.client.stdin and self.client.stdout
        print(json.dumps(bodies), file=self.client.stdin, flush=True)
        answers = json.loads(self.client.stdout.readline())
        for one in answers["outcomes"]:
            if (one["status"], one["tokens"]) != (200, self.tokens):
                raise RuntimeError(f"An answer is incomplete: {one}.")
        return answers["seconds"], answers


def mean_events(answers: dict[str, Any]) -> float:
    """Return the mean number of events per answer."""
    return statistics.mean(one["events"] for one in answers["outcomes"])


@contextmanager
def running_client(port: int) -> "Iterator[subprocess.Popen[str]]":
    """Run a client process in the block."""
    command = [sys.executable, "-m", "benchmarks.parts.http_client", str(port)]
    client = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield client
    finally:
        client.terminate()
        client.wait()


def make_benchmark(options: argparse.Namespace, stack: ExitStack) -> OverheadBenchmark:
    """Start server and client and load the model; `stack` stops them."""
    name = stack.enter_context(served_model(options))
    chosen = {name: getattr(options, name) for name in ("device", "dtype", "quant") if getattr(options, name)}
    flags = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    flags += ["--from_pretrained", name, "--max-batch", str(options.count)]
    server = stack.enter_context(serving(flags))
    model = load_sat(name, **chosen, max_batch_size=options.count, max_queue_size=options.count)
    client = stack.enter_context(running_client(server.port))
    return OverheadBenchmark(model, server, client, options.count, options.tokens, options.repetitions)


def make_rows(options: argparse.Namespace) -> list[Row]:
    """Return all rows."""
    device = "cuda" if (options.device or "").startswith("cuda") else "cpu"
    target = TARGET_OVERHEAD[device] if options.count == TARGET_COUNT else None
    rows = []
    for name, stream in (("streams", True), ("whole", False)):
        for more, with_images in (("", False), ("-images", True)):
            description = f"{options.count} x {options.tokens} tokens, % of the engine's tokens/s lost"
            rows.append(
                Row(
                    f"{name}{more}",
                    description,
                    methodcaller("overhead", stream, with_images),
                    target if stream else None,
                )
            )
    return rows


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    add_served_model_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if available)")
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--quant", type=int, choices=(8, 4), help="quantize the language model to this many bits")
    parser.add_argument(
        "--count", type=min_int(1), default=TARGET_COUNT, help="concurrent requests (default %(default)s)"
    )
    parser.add_argument("--tokens", type=min_int(2), default=128, help="tokens of an answer (default %(default)s)")
    parser.add_argument("--repetitions", type=min_int(1), default=9, help="rounds (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with ExitStack() as stack:
        stage = Stage("http", partial(make_benchmark, options, stack), make_rows(options))
        heading = f"{describe_machine(name_gpu(torch.device(options.device)))}, {options.from_pretrained}"
        run_table(options, heading, [stage])


if __name__ == "__main__":
    sys.exit(run_program(main))

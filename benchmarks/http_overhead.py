"""What the HTTP layer costs over the engine alone; the server and the client are processes of their own.

python -m benchmarks.http_overhead
python -m benchmarks.http_overhead --only http/streams --device cuda --from_pretrained visualglm-6b
python -m benchmarks.http_overhead --device cuda --from_pretrained full-size   random weights, in temporary files

Each row asks `--count` requests at once over HTTP, and the same requests, of the same prompts, settings and seeds, at
the scheduler itself, from threads of this process: turn by turn, `--repetitions` times after one that is not counted.
What is lost is the median of the ratios.
    streams, streams-pictures   answers as server-sent events
    whole, whole-pictures       answers in one piece
In the rows with pictures each request has its own, which both sides decode and encode, the engine's side from its file.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.full_size import FULL_SIZE, full_size_config, write_full_size
from benchmarks.parts.http_client import MIN_LENGTH, QUESTION, completion, random_png
from benchmarks.parts.http_server import Server, serving
from benchmarks.parts.machine import ROOT, describe_machine, min_int, name_gpu
from benchmarks.parts.streams import StreamReader
from benchmarks.parts.table import Row, Stage, Table, add_table_arguments, at_most, list_rows, show
from model import DEMO, ENGLISH, Conversation, SatChatModel, load_sat
from model.command_line import ArgumentParser, run_program
from model.engine import Request
from model.loading import DTYPES

IMAGE_SIZE = 64
TARGET_COUNT = 16
TARGET_OVERHEAD = {"cpu": at_most(25), "cuda": at_most(10)}  # % of the engine's tokens/s, at so many streams


class OverheadBenchmark:
    """The two that are compared: a server with its client, and the engine alone in this process.

    Args:
        model: the engine's.
        server: has the same model.
        client: a process of `http_client`.
        count, tokens: requests at once, and tokens of an answer.
        repetitions: of a measurement.
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
        """Return how many % of the engine's tokens/s are lost over HTTP, and how that came about."""
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
            f"{rates}; {spread}; CPU: server {server_s:.2f} s, client {client_s:.2f} s; {events:.0f} events an answer"
        )
        return 100 * statistics.median(lost), note

    def random_images(self, wanted: bool) -> list[bytes | None]:
        """Return a new picture for each request, or none for any."""
        self.seed += self.count
        return [random_png(IMAGE_SIZE, self.seed + n) if wanted else None for n in range(self.count)]

    def ask_engine(self, images: list[bytes | None]) -> float:
        """Return the tokens a second of requests straight at the scheduler."""
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
        """Return the seconds that the same takes over HTTP, and what the client has seen.

        Raises:
            RuntimeError: an answer is not as it should be.
        """
        name = self.server.model
        bodies = [completion(name, self.tokens, n, one, stream=stream) for n, one in enumerate(images)]
        assert self.client.stdin and self.client.stdout
        print(json.dumps(bodies), file=self.client.stdin, flush=True)
        answers = json.loads(self.client.stdout.readline())
        for one in answers["outcomes"]:
            if (one["status"], one["tokens"]) != (200, self.tokens):
                raise RuntimeError(f"An answer is not whole: {one}.")
        return answers["seconds"], answers


def mean_events(answers: dict[str, Any]) -> float:
    """Return the events of an answer, in the mean."""
    return statistics.mean(one["events"] for one in answers["outcomes"])


@contextmanager
def running_client(port: int) -> "Iterator[subprocess.Popen[str]]":
    """Run a client in the block."""
    command = [sys.executable, "-m", "benchmarks.parts.http_client", str(port)]
    client = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield client
    finally:
        client.terminate()
        client.wait()


def make_benchmark(options: argparse.Namespace, stack: ExitStack) -> OverheadBenchmark:
    """Start what is measured; `stack` ends it."""
    name = options.from_pretrained if options.from_pretrained != FULL_SIZE else write_random(options, stack)
    chosen = {name: getattr(options, name) for name in ("device", "dtype", "quant") if getattr(options, name)}
    flags = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    flags += ["--from_pretrained", name, "--max-batch", str(options.count)]
    server = stack.enter_context(serving(flags))
    model = load_sat(name, **chosen, max_batch_size=options.count, max_queue_size=options.count)
    client = stack.enter_context(running_client(server.port))
    return OverheadBenchmark(model, server, client, options.count, options.tokens, options.repetitions)


def write_random(options: argparse.Namespace, stack: ExitStack) -> str:
    """Write a model of random weights; return its directory, which `stack` removes."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
    write_full_size(directory, full_size_config(options.layers), torch.device(options.device))
    return str(directory)


def make_rows(options: argparse.Namespace) -> list[Row]:
    """Return everything that can be measured."""
    device = "cuda" if (options.device or "").startswith("cuda") else "cpu"
    target = TARGET_OVERHEAD[device] if options.count == TARGET_COUNT else None
    rows = []
    for name, stream in (("streams", True), ("whole", False)):
        for more, with_images in (("", False), ("-pictures", True)):
            what = f"{options.count} x {options.tokens} tokens, % of the engine's tokens/s lost"
            rows.append(
                Row(f"{name}{more}", what, methodcaller("overhead", stream, with_images), target if stream else None)
            )
    return rows


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    parser.add_argument("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR", help=f"or {FULL_SIZE}")
    parser.add_argument("--layers", type=int, help=f"the most layers of each part of {FULL_SIZE}, to try a script")
    parser.add_argument("--device", help="cpu, cuda, ...; left out, a GPU where there is one")
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--quant", type=int, choices=(8, 4), help="bits of the language model's weights")
    parser.add_argument("--count", type=min_int(1), default=TARGET_COUNT, help="requests at once (default %(default)s)")
    parser.add_argument("--tokens", type=min_int(2), default=128, help="of an answer (default %(default)s)")
    parser.add_argument("--repetitions", type=min_int(1), default=9, help="default %(default)s")
    return parser.parse_args()


def main() -> None:
    """Measure the rows asked for and print them."""
    options = parse_arguments()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with ExitStack() as stack:
        stage = Stage("http", partial(make_benchmark, options, stack), make_rows(options))
        if options.list:
            list_rows([stage])
            return
        show(f"{describe_machine(name_gpu(torch.device(options.device)))}, {options.from_pretrained}\n")
        Table(options.only).run([stage])


if __name__ == "__main__":
    sys.exit(run_program(main))

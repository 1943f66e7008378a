"""Soak test of an engine under random load: no request gets stuck, and memory stays constant.

python -m tests.stress.soak
python -m tests.stress.soak --device cpu --minutes 1 --rate 5
python -m tests.stress.soak --quant 4 --minutes 10

Requests arrive at random, with prompts and answers of random lengths, about more images than the cache holds. Some are
cancelled after a random number of tokens, which may be 0. Requests beyond the queue size are rejected and counted. A
probe request is repeated; in float32 it must always get the same tokens, independent of concurrent requests. The mean
memory over the last third of the samples may exceed that over the third before by at most the allowance; the KV cache
of the running sequences, and memory that PyTorch keeps for later sequences, do not count. Exits with 1 if any condition
is violated.
"""

import argparse
import collections
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import Source, add_model_arguments
from benchmarks.parts.backends import EngineBackend
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.prompts import SHORT, random_pixels
from benchmarks.parts.streams import StreamReader, percentile
from benchmarks.parts.table import show
from model import BusyError
from model.command_line import ArgumentParser, run_program
from model.engine import Request, Scheduler
from model.images.embedding_cache import MAX_CACHED_IMAGES

IMAGES = MAX_CACHED_IMAGES + 44  # more than the cache holds
CANCEL_RATE, PROBE_RATE = 0.3, 0.05  # shares of all requests
PROBE_TOKENS = 24
ALLOWANCE_MIB = 64.0


@dataclass
class MemorySample:
    """Memory at one moment, in MiB: of the process, and on the GPU in use without the KV cache, and reserved."""

    seconds: float
    process: float
    used: float
    reserved: float


@dataclass(eq=False)
class PendingRequest:
    """A request in progress, and its expected result."""

    stream: StreamReader
    tokens: int
    is_probe: bool = False
    is_cancelled: bool = False


class Soak:
    """Random requests to a scheduler.

    Args:
        engine: the engine.
        scheduler: its scheduler.
        max_length: maximum number of tokens of prompt and answer.
        stuck_s: seconds without activity after which a request counts as stuck.
    """

    def __init__(self, engine: EngineBackend, scheduler: Scheduler, max_length: int, stuck_s: float) -> None:
        self.engine, self.scheduler = engine, scheduler
        self.max_length, self.stuck_s = max_length, stuck_s
        self.rng = random.Random(0)
        self.images = random_pixels(IMAGES, engine.model.network.image_size, seed=0)
        self.pending_requests: set[PendingRequest] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.firsts: list[float] = []
        self.probe: list[int] | None = None
        self.failures: list[str] = []

    def send_request(self) -> None:
        """Send one more request."""
        rng = self.rng
        if rng.random() < PROBE_RATE:
            stream = StreamReader(self.scheduler.submit, lambda: self.request(SHORT, PROBE_TOKENS, 0, 0))
            self.pending_requests.add(PendingRequest(stream, PROBE_TOKENS, is_probe=True))
            return
        length = rng.choice((SHORT, rng.randint(SHORT, self.max_length // 2)))
        tokens = rng.randint(1, min(256, self.max_length - length))
        image_index, seed = rng.randrange(IMAGES), rng.randrange(2**31)
        most = rng.randint(0, tokens) if rng.random() < CANCEL_RATE else None
        stream = StreamReader(self.scheduler.submit, lambda: self.request(length, tokens, image_index, seed), most)
        self.pending_requests.add(PendingRequest(stream, tokens, is_cancelled=most is not None))

    def request(self, length: int, tokens: int, image_index: int, seed: int) -> Request:
        """Return a request about one of the images."""
        return self.engine.request(length, tokens, self.images[image_index], seed)

    def collect(self) -> None:
        """Check the requests that have ended or are stuck."""
        now = time.perf_counter()
        for pending in list(self.pending_requests):
            stream = pending.stream
            if stream.is_done:
                self.pending_requests.discard(pending)
                self.check(pending)
            elif now - stream.last_activity > self.stuck_s:
                self.pending_requests.discard(pending)
                self.fail(f"a request had no activity for {self.stuck_s:g} s after {len(stream.times)} tokens")

    def check(self, pending: PendingRequest) -> None:
        """Count a request that has ended, and check its result."""
        stream = pending.stream
        if isinstance(stream.error, BusyError):
            self.counts["refused"] += 1
        elif stream.error is not None:
            self.fail(f"{type(stream.error).__name__}: {stream.error}")
        elif pending.is_cancelled:
            self.counts["cancelled"] += 1
        elif len(stream.times) != pending.tokens or stream.finish_reason != "length":
            self.fail(
                f"an answer of {pending.tokens} tokens has {len(stream.times)} and ended by {stream.finish_reason}"
            )
        else:
            self.counts["answered"] += 1
        self.counts["tokens"] += len(stream.times)
        self.firsts += [stream.times[0] - stream.started] if stream.times else []
        if pending.is_probe and stream.error is None:
            self.compare_probe(stream.token_ids)

    def compare_probe(self, token_ids: list[int]) -> None:
        """Compare the probe's tokens with the first ones; below float32, the batch size may change them."""
        self.counts["probes"] += 1
        self.probe = self.probe or token_ids
        if token_ids != self.probe:
            self.counts["probes that differ"] += 1
            if self.engine.model.network.dtype == torch.float32:
                self.fail("the probe got different tokens")

    def fail(self, text: str) -> None:
        """Record a failure, and print it."""
        self.failures.append(text)
        show(f"FAILED: {text}")

    def run(self, seconds: float, rate: float, every_s: float) -> list[MemorySample]:
        """Send requests for `seconds`, then wait for the last ones; return memory samples."""
        started = next_sample = next_request = time.perf_counter()
        samples: list[MemorySample] = []
        while (now := time.perf_counter()) < started + seconds or self.pending_requests:
            if now >= next_request and now < started + seconds:
                self.send_request()
                next_request += self.rng.expovariate(rate)
            self.collect()
            if now >= next_sample:
                next_sample += every_s
                samples.append(take_sample(now - started, self.scheduler))
                self.report(samples[-1])
            time.sleep(0.002)
        return samples

    def report(self, sample: MemorySample) -> None:
        """Print a line of progress."""
        counts = ", ".join(f"{number:,} {name}" for name, number in sorted(self.counts.items()))
        memory = f"process {sample.process:.0f} MiB, GPU {sample.used:.0f} of {sample.reserved:.0f} MiB"
        show(f"{sample.seconds:6.0f} s: {len(self.pending_requests)} in progress; {counts or 'none yet'}; {memory}")


def take_sample(seconds: float, scheduler: Scheduler) -> MemorySample:
    """Sample the memory."""
    device = scheduler.batch.network.device
    lines = Path("/proc/self/status").read_text().splitlines()
    process = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    if device.type != "cuda":
        return MemorySample(seconds, process, 0, 0)
    cache: Any = scheduler.batch.decoder.cache  # type: ignore[attr-defined]
    key_values = sum(one.nbytes for one in cache.occupied(range(cache.num_slots)))
    used, reserved = torch.cuda.memory_allocated(device) - key_values, torch.cuda.memory_reserved(device)
    return MemorySample(seconds, process, used / 2**20, reserved / 2**20)


def memory_growth(samples: list[MemorySample], name: str) -> float:
    """Return the growth in MiB of the mean from the second third of the samples to the last."""
    third = len(samples) // 3
    if not third:
        return 0.0
    values: list[float] = [getattr(sample, name) for sample in samples]
    return statistics.mean(values[-third:]) - statistics.mean(values[-2 * third : -third])


def check_memory(soak: Soak, samples: list[MemorySample]) -> None:
    """Print the growth of memory, and fail if it is too large."""
    for name in ("process", "used"):
        more = memory_growth(samples, name)
        show(f"Memory, {name}: {more:+.1f} MiB from the second third to the last; limit {ALLOWANCE_MIB:+.0f}.")
        if more > ALLOWANCE_MIB:
            soak.fail(f"memory ({name}) grew by {more:.0f} MiB")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--quant", type=int, choices=(8, 4), help="quantize the language model to this many bits")
    parser.add_argument("--minutes", type=float, default=10, help="duration of the load (default %(default)s)")
    parser.add_argument("--rate", type=float, help="mean requests per second (default: 20 on a GPU, 4 on a CPU)")
    parser.add_argument(
        "--max_batch_size", type=min_int(1), default=16, help="maximum batch size (default %(default)s)"
    )
    parser.add_argument(
        "--max_queue_size", type=min_int(0), default=32, help="maximum queue size (default %(default)s)"
    )
    parser.add_argument(
        "--max_length",
        type=min_int(256),
        default=2048,
        help="maximum tokens of prompt and answer (default %(default)s)",
    )
    parser.add_argument(
        "--stuck_s", type=float, default=60, help="seconds without activity that count as stuck (default %(default)s)"
    )
    parser.add_argument("--every_s", type=float, default=10, help="seconds between lines (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Run, print the verdict, and exit with 1 on failure."""
    options = parse_arguments()
    source = Source(options)
    engine = EngineBackend(source.sat(options.quant))
    machine = describe_machine(name_gpu(source.device))
    show(f"{machine}, {source.name}, {source.dtype}, batch size: {options.max_batch_size}\n")
    scheduler = Scheduler(
        engine.model.network,
        eos_token_id=engine.eos_token_id,
        max_batch_size=options.max_batch_size,
        capacity=options.max_length,
        max_queue_size=options.max_queue_size,
    )
    soak = Soak(engine, scheduler, options.max_length, options.stuck_s)
    samples = soak.run(
        60 * options.minutes, options.rate or (20 if source.device.type == "cuda" else 4), options.every_s
    )
    scheduler.close()
    check_memory(soak, samples)
    if soak.firsts:
        spread = ", ".join(f"{share:.0%} {percentile(soak.firsts, share):.3f} s" for share in (0.5, 0.95, 0.99))
        show(f"First token: {spread}.")
    verdict = f"FAILED, {len(soak.failures)} times" if soak.failures else "Passed"
    show(f"{verdict}: {dict(sorted(soak.counts.items()))}.")
    sys.exit(bool(soak.failures))


if __name__ == "__main__":
    sys.exit(run_program(main))

"""Throughput and latency of one engine: requests from many threads to a scheduler, each answer streamed.

python -m benchmarks.serving
python -m benchmarks.serving --only 'ours/at-once-*' ours/stall
python -m benchmarks.serving --device cpu --tokens 32
python -m benchmarks.serving --quant 8 --rate 20 --seconds 10

Every request has its own image, encoded by its own thread, and an answer with a fixed number of tokens.
    at-once-N   N simultaneous requests, the median of three rounds; the note shows the latencies
    stall       the longest gap between tokens of running streams during the prefill of 2,000 tokens, in decode steps
    arrivals    Poisson arrivals at --rate per second: the 95th percentile of time to first token
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller

import torch

from benchmarks.full_size import Source, add_model_arguments
from benchmarks.parts.backends import EngineBackend
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.prompts import SHORT, random_pixels
from benchmarks.parts.streams import StreamReader, percentile
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_least, at_most, run_table
from model.command_line import ArgumentParser, run_program
from model.engine import Request, Scheduler

ROUNDS = 3  # measured rounds, after a warm-up; a group of a new size still captures its graph in one of them
LONGEST_PROMPT = 2000
RUNNING_STREAMS = 8  # streams that a long prefill may stall
WARM_UP_TOKENS = 32  # tokens of a stream before its step time is measured
STALL_TARGET = at_most(5)
BURST_TARGETS = {32: at_least(5000), 128: at_least(11000)}  # tokens/s, on one H200 at full size in float16


class SchedulerLoad:
    """An engine and the load on its scheduler."""

    def __init__(self, engine: EngineBackend, tokens: int) -> None:
        self.engine = engine
        self.tokens = tokens
        self.seed = 0

    @contextmanager
    def scheduler(self, rows: int, capacity: int) -> Iterator[Scheduler]:
        """Run a scheduler in the block; requests that are unfinished at its end get an error."""
        engine = self.engine
        made = Scheduler(
            engine.model.network,
            eos_token_id=engine.eos_token_id,
            max_batch_size=rows,
            capacity=capacity,
            max_queue_size=10 * rows,
        )
        try:
            yield made
        finally:
            made.close()

    def request_factories(self, count: int, length: int, tokens: int) -> list[Callable[[], Request]]:
        """Return factories of `count` requests with new images."""
        self.seed += 1000
        images = random_pixels(count, self.engine.model.network.image_size, self.seed)
        return [partial(self.engine.request, length, tokens, one, self.seed + n) for n, one in enumerate(images)]

    def burst(self, count: int) -> tuple[float, str]:
        """Return tokens/s of `count` simultaneous requests, and their latencies."""
        with self.scheduler(count, SHORT + self.tokens) as scheduler:
            self._send_burst(scheduler, count)  # warm-up
            rounds = [self._send_burst(scheduler, count) for _ in range(ROUNDS)]
        streams = sorted(rounds, key=duration_s)[ROUNDS // 2]
        return count * self.tokens / duration_s(streams), describe_latency(streams)

    def _send_burst(self, scheduler: Scheduler, count: int) -> list[StreamReader]:
        request_factories = self.request_factories(count, SHORT, self.tokens)
        streams = [StreamReader(scheduler.submit, make) for make in request_factories]
        for one in streams:
            one.join(self.tokens)
        return streams

    def _send_at_random(self, scheduler: Scheduler, rate: float, seconds: float) -> list[StreamReader]:
        rng, streams = random.Random(0), list[StreamReader]()
        for make in self.request_factories(max(1, round(rate * seconds)), SHORT, self.tokens):
            streams.append(StreamReader(scheduler.submit, make))
            time.sleep(rng.expovariate(rate))
        for one in streams:
            one.join(self.tokens)
        return streams

    def prefill_stall(self) -> tuple[float, str]:
        """Return the longest stall of running streams by a long prefill, in decode steps."""
        capacity = min(2048, self.engine.model.network.max_sequence_length)
        with self.scheduler(RUNNING_STREAMS + 1, capacity) as scheduler:
            self._measure_stall(scheduler, capacity)  # warm-up
            wait, step, read = self._measure_stall(scheduler, capacity)
        return wait / step, f"{wait * 1e3:.1f} ms of {step * 1e3:.2f} ms a step; the prefill took {read * 1e3:.0f} ms"

    def _measure_stall(self, scheduler: Scheduler, capacity: int) -> tuple[float, float, float]:
        """Return the longest gap, the usual step, and the time of the long prefill, in seconds."""
        [long] = self.request_factories(1, LONGEST_PROMPT, tokens=2)
        request = long()  # its image is encoded here, outside the measurement
        running = [
            StreamReader(scheduler.submit, make)
            for make in self.request_factories(RUNNING_STREAMS, SHORT, capacity - SHORT - 1)
        ]
        while not all(len(one.times) > WARM_UP_TOKENS or one.is_done for one in running):
            time.sleep(0.001)
        stream = StreamReader(scheduler.submit, lambda: request)
        stream.join(2)
        while not all(one.last_activity > stream.times[0] or one.is_done for one in running):
            time.sleep(0.001)
        begin, end = stream.started, stream.times[0]
        seen = [list(one.times) for one in running]
        if any(one.is_done for one in running):
            raise RuntimeError("A running stream ended before the long prefill did.")
        waits = [later - max(earlier, begin) for one in seen for earlier, later in intervals_within(one, begin, end)]
        usual = [later - earlier for one in seen for earlier, later in intervals_within(one, 0, begin)]
        for one in running:
            one.cancel()
            one.join()
        return max(waits), statistics.median(usual), end - begin

    def random_arrivals(self, rate: float, seconds: float) -> tuple[float, str]:
        """Return the 95th percentile of time to first token in ms, at random arrivals."""
        with self.scheduler(64, SHORT + self.tokens) as scheduler:
            self._send_at_random(scheduler, rate, seconds)  # warm-up
            streams = self._send_at_random(scheduler, rate, seconds)
        total = len(streams) * self.tokens / duration_s(streams)
        firsts = [one.times[0] - one.started for one in streams]
        return percentile(firsts, 0.95) * 1e3, f"{len(streams)} requests, {total:.0f} tokens/s; " + describe_latency(
            streams
        )


def duration_s(streams: list[StreamReader]) -> float:
    """Return the seconds from the first request to the last token."""
    return max(one.times[-1] for one in streams) - min(one.started for one in streams)


def intervals_within(times: list[float], begin: float, end: float) -> list[tuple[float, float]]:
    """Return the pairs of successive times that overlap the interval from `begin` to `end`."""
    pairs = itertools.pairwise(times)
    return [(earlier, later) for earlier, later in pairs if later > begin and earlier < end]


def describe_latency(streams: list[StreamReader]) -> str:
    """Describe the latencies of streams."""
    firsts = [(one.times[0] - one.started) * 1e3 for one in streams]
    waits = [wait * 1e3 for one in streams for wait in one.token_gaps]
    spread = [f"{percentile(values, share):.1f}" for values in (firsts, waits) for share in (0.5, 0.95)]
    return "first token {} ms, 95 % {}; between tokens {} ms, 95 % {}".format(*spread)


def make_stages(source: Source, options: argparse.Namespace) -> list[Stage]:
    """Return all stages."""
    on_gpu = source.device.type == "cuda"
    has_targets = on_gpu and source.is_full_size and source.dtype == torch.float16 and not options.quant
    counts = options.counts or ((1, 8, 32, 128) if on_gpu else (1, 4, 16))
    tokens = options.tokens or (128 if on_gpu else 64)
    description = f"simultaneous requests, {SHORT} + {tokens}, total, tokens/s"
    rate = options.rate or (16 if on_gpu else 4)
    rows = [
        Row(
            f"at-once-{count}",
            f"{count} {description}",
            methodcaller("burst", count),
            BURST_TARGETS.get(count) if has_targets and tokens == 128 else None,
        )
        for count in counts
    ]
    stall = f"longest stall of {RUNNING_STREAMS} streams by a prefill of {LONGEST_PROMPT} tokens, decode steps"
    arrivals = f"{rate} requests/s for {options.seconds} s, time to first token, 95 %, ms"
    rows += [
        Row("stall", stall, methodcaller("prefill_stall"), STALL_TARGET if has_targets else None),
        Row("arrivals", arrivals, methodcaller("random_arrivals", rate, options.seconds)),
    ]
    return [Stage("ours", lambda: SchedulerLoad(EngineBackend(source.sat(options.quant)), tokens), rows)]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_table_arguments(parser)
    parser.add_argument("--quant", type=int, choices=(8, 4), help="quantize the language model to this many bits")
    parser.add_argument("--counts", type=min_int(1), nargs="+", metavar="N", help="numbers of simultaneous requests")
    parser.add_argument("--tokens", type=min_int(2), help="tokens of an answer (default: 128 on a GPU, 64 on a CPU)")
    parser.add_argument("--rate", type=float, help="mean arrivals per second")
    parser.add_argument("--seconds", type=float, default=5, help="duration of the arrivals (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    source = Source(options)
    machine = describe_machine(name_gpu(source.device))
    heading = f"{machine}, {source.name}, {source.dtype}, threads: {torch.get_num_threads()}"
    run_table(options, heading, make_stages(source, options))


if __name__ == "__main__":
    sys.exit(run_program(main))

"""Decoding speed, compared with its targets and with SAT's own generation in the same run.

python -m benchmarks.decode
python -m benchmarks.decode --only 'ours/*' 'original/decode-*'
python -m benchmarks.decode --only 'ours/ready'           startup, which needs a fresh process
python -m benchmarks.decode --device cpu                  visualglm-tiny
python -m benchmarks.decode --device cpu --dtype bfloat16 --from_pretrained full-size --layers 1
python -m benchmarks.decode --list

Answers have a fixed number of tokens (the end token is forbidden), with the demos' sampling. Images are random pixels,
new ones unless a row says otherwise. The backends, each alone on the device:
    ours        the engine: token ids in, token ids out; text-49 includes detokenization
    int8, int4  the same with quantized weights; int4-vision also quantizes the image encoder to 4 bits
    original    SAT's filling_sequence with CachedAutoregressiveMixin and BaseStrategy on the same network, as in its
                demos; its sequences are as short as possible, which favors it
    hf          the Hugging Face network, by its ChatModel's stream_answer, including detokenization
    hf-int8, hf-int4    the engine with the Hugging Face network and quantized weights
    plain       model.chat of an exported directory, and generate with its processor, in a process that has only
                transformers
    peer        a plain transformer of the language model's size, decoded by torch.compile; on a GPU
Concurrent requests are sent twice: with new images, and, for the rate while all of them decode, with the same images
again. A ratio of 1 or more meets the target. The targets of the first table are for one H200 with the published sizes
in float16; the targets of the second table apply wherever they are printed.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

import torch

from benchmarks.full_size import Source, add_model_arguments
from benchmarks.parts.backends import ChatBackend, EngineBackend, Measurements, SatBackend, decoder_weight_bytes
from benchmarks.parts.compiled_network import CompiledBackend
from benchmarks.parts.decode_comparisons import (
    add_original_rate,
    compare_counts,
    compare_implementations,
    compare_with_peer,
)
from benchmarks.parts.decode_targets import ORIGINAL_RESULTS, TARGETS
from benchmarks.parts.machine import copy_rate, describe_machine, min_int, name_gpu
from benchmarks.parts.prompts import LONG, SHORT
from benchmarks.parts.table import (
    Comparison,
    Row,
    Stage,
    add_table_arguments,
    run_table,
)
from benchmarks.parts.transformers_export import TransformersBackend
from model.command_line import ArgumentParser, run_program

# Numbers of concurrent requests on a GPU: those with rows for a step, and those also measured with their images.
STEP_COUNTS, TOTAL_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (32, 128, 256)
CPU_COUNTS = (16,)
PEER_COUNTS = (1, 8, 32)
SLOW_TOKENS = 32  # tokens of an answer of backends that need tens of milliseconds per token


class Plan:
    """The stages and comparisons for a model source.

    Attributes:
        source: source of the models.
        on_gpu: whether the device is a GPU.
        has_targets: whether the targets of the first table are for this model on this kind of device.
        tokens: number of tokens of an answer.
        counts: numbers of concurrent requests whose steps are measured.
        total_counts: those of them that are also measured with their images.
    """

    def __init__(self, source: Source, tokens: int, repetitions: int) -> None:
        self.source = source
        self.on_gpu = source.device.type == "cuda"
        self.has_targets = self.on_gpu and source.is_full_size and source.dtype == torch.float16
        self.tokens = tokens
        self.repetitions = repetitions
        self.counts = STEP_COUNTS if self.on_gpu else CPU_COUNTS
        self.total_counts = TOTAL_COUNTS if self.on_gpu else CPU_COUNTS
        self.concurrent_tokens = 128 if self.on_gpu else tokens

    def stages(self) -> list[Stage]:
        """Return all stages. Ours comes first, so that its startup is measured in a fresh process."""
        sat, hf = self.source.sat, self.source.hf
        quantized = [("int8", 8, False), ("int4", 4, False), ("int4-vision", 4, True)]
        return [
            self.stage(
                "ours", lambda: EngineBackend(sat()), self.ready() + self.answers() + self.engine() + self.concurrent()
            ),
            *(
                self.stage(name, partial(self.quantized_engine, bits, vision), self.quantized())
                for name, bits, vision in quantized
            ),
            self.stage("original", lambda: SatBackend(sat()), self.original()),
            self.stage("hf", lambda: ChatBackend(hf()), self.ready() + self.answers() + self.steps_of_hf()),
            *(
                self.stage(f"hf-int{bits}", partial(self.quantized_hf, bits), self.answers() + self.concurrent_on_gpu())
                for bits in (8, 4)
            ),
            Stage("plain", self.plain, self.with_targets("plain", self.exported())),
            *([Stage("peer", self.peer, self.compiled())] if self.on_gpu else []),
        ]

    def stage(self, name: str, make: Callable[[], Any], rows: list[Row]) -> Stage:
        """Return a stage whose backend is measured `repetitions` times."""
        return Stage(name, lambda: Measurements(make(), self.repetitions), self.with_targets(name, rows))

    def with_targets(self, stage: str, rows: list[Row]) -> list[Row]:
        """Add the targets to the rows, if they apply to this model and device."""
        if not self.has_targets:
            return rows
        return [Row(row.name, row.description, row.measure, TARGETS.get(f"{stage}/{row.name}")) for row in rows]

    def quantized_engine(self, bits: int, vision: bool) -> EngineBackend:
        """Return the engine with quantized weights."""
        return EngineBackend(self.source.sat(bits, vision))

    def quantized_hf(self, bits: int) -> EngineBackend:
        """Return the engine with the Hugging Face network and quantized weights."""
        return EngineBackend(self.source.hf(bits))

    def peer(self) -> CompiledBackend:
        """Return the compiled plain transformer."""
        return CompiledBackend(self.source.config, self.source.device, self.source.dtype)

    def compiled(self) -> list[Row]:
        """Return the rows of the compiled plain transformer."""
        return [
            Row(f"step-{n}", f"{n} at once, ms per step", methodcaller("step_ms", n, self.concurrent_tokens))
            for n in PEER_COUNTS
        ]

    def ready(self) -> list[Row]:
        """Return the startup row, which must be its stage's first."""
        return [Row("ready", "first answer minus second answer, s", methodcaller("startup_s"))]

    def decode(self, lengths: list[int], tokens: int | None = None) -> list[Row]:
        """Return the rows of decoding time per token."""
        count = tokens or self.tokens
        return [Row(f"decode-{n}", f"prompt {n}, ms/token", methodcaller("token_ms", n, count)) for n in lengths]

    def first(self) -> list[Row]:
        """Return the rows of time to first token with a new image."""
        return [Row(f"first-{n}", f"prompt {n}, first token, ms", methodcaller("first_ms", n)) for n in (SHORT, LONG)]

    def answers(self) -> list[Row]:
        """Return the rows of single answers."""
        description = f"prompt {SHORT}, first token with a cached image, ms"
        known = Row(f"known-{SHORT}", description, methodcaller("first_ms", SHORT, known=True))
        return [*self.decode([SHORT, LONG]), *self.first(), known]

    def engine(self) -> list[Row]:
        """Return the rows of the engine itself."""
        image = Row("image", "image encoding, ms", methodcaller("image_ms"))
        text = Row(f"text-{SHORT}", f"prompt {SHORT}, stream_answer with text, ms/token", self.text_ms)
        return [image, text, self.weights(), *self.memory()]

    def text_ms(self, measured: Measurements) -> float:
        """Return milliseconds per token when the same model answers in text."""
        return Measurements(ChatBackend(measured.backend.model), self.repetitions).token_ms(SHORT, self.tokens)

    def weights(self) -> Row:
        """Return the row of weight bandwidth."""
        return Row("bandwidth", "weight bandwidth while decoding / copy rate", self.bandwidth)

    def memory(self) -> list[Row]:
        """Return the row of peak GPU memory; no row on a CPU."""
        description = f"prompt {LONG}, peak memory, GiB"
        return [Row("memory", description, methodcaller("peak_gib", LONG, self.tokens))] if self.on_gpu else []

    def concurrent(self) -> list[Row]:
        """Return the rows of concurrent requests, each with its own image."""
        rows = []
        for n in self.counts:
            description = f"{n} concurrent requests, {SHORT} + {self.concurrent_tokens}"
            rows.append(Row(f"step-{n}", f"{description}, ms per step", partial(self.step_ms, n)))
            rows.append(Row(f"many-{n}", f"{description}, while all decode, tokens/s", partial(self.steady_rate, n)))
            if n in self.total_counts:
                rows.append(Row(f"many-{n}-all", f"{description}, total, tokens/s", partial(self.total_rate, n)))
        return rows

    def concurrent_on_gpu(self) -> list[Row]:
        """Return the rows of concurrent requests for backends that are measured with them on a GPU only."""
        return self.concurrent() if self.on_gpu else []

    def steps_of_hf(self) -> list[Row]:
        """Return the rows of concurrent requests to the engine of a Hugging Face chat model."""

        def to_engine(row: Row) -> Row:
            def measure(measured: Measurements) -> float | tuple[float, str]:
                engine = measured.cached(("engine",), lambda: Measurements(EngineBackend(measured.backend.model), 1))
                return row.measure(engine)

            return Row(row.name, row.description, measure)

        return [to_engine(row) for row in self.concurrent_on_gpu()]

    def step_ms(self, count: int, measured: Measurements) -> float:
        """Return milliseconds of a step while all of `count` requests decode."""
        return count / self.steady_rate(count, measured) * 1e3

    def steady_rate(self, count: int, measured: Measurements) -> float:
        """Return tokens/s of concurrent requests while all of them decode; their images are cached."""
        return measured.concurrent(count, self.concurrent_tokens)[1].steady_rate

    def total_rate(self, count: int, measured: Measurements) -> float:
        """Return tokens/s of concurrent requests, from submission to the last token."""
        return measured.concurrent(count, self.concurrent_tokens)[0].total_rate

    def quantized(self) -> list[Row]:
        """Return the rows of quantized weights."""
        return [*self.ready(), *self.answers(), self.weights(), *self.memory(), *self.concurrent_on_gpu()]

    def original(self) -> list[Row]:
        """Return the rows of SAT's own generation."""
        count = 2 if self.on_gpu else self.counts[0]
        tokens = SLOW_TOKENS if self.on_gpu else self.concurrent_tokens
        description = f"{count} sequential requests, {SHORT} + {tokens}, total, tokens/s"
        rows = [
            *self.decode([SHORT, LONG], tokens),
            *self.first(),
            Row("image", "image encoding, ms", methodcaller("image_ms")),
            Row("in-turn", description, lambda m: m.backend.answer_in_turn(SHORT, tokens, m.images(count))),
        ]
        return [self.with_original_result(row) for row in rows]

    def with_original_result(self, row: Row) -> Row:
        """Add the original program's result to a row, if it is comparable."""
        before = ORIGINAL_RESULTS.get(f"original/{row.name}")
        if before is None or not self.has_targets:
            return row
        note = f"original program: {before:g}"
        return Row(row.name, row.description, lambda measured: (row.value(measured)[0], note))

    def exported(self) -> list[Row]:
        """Return the table rows for plain transformers."""
        rows = []
        for call, prefix in (("chat", ""), ("generate", "generate-")):
            for n in (SHORT, LONG):
                rows.append(
                    Row(f"{prefix}decode-{n}", f"{call}, prompt {n}, ms/token", methodcaller("token_ms", call, n))
                )
            description = f"{call}, prompt {SHORT}, first token, ms"
            rows.append(Row(f"{prefix}first-{SHORT}", description, methodcaller("first_ms", call, SHORT)))
        return rows

    def plain(self) -> TransformersBackend:
        """Measure plain transformers."""
        return TransformersBackend(self.source, [SHORT, LONG], SLOW_TOKENS)

    def bandwidth(self, measured: Measurements) -> tuple[float, str]:
        """Return the weight bandwidth as a share of the copy rate, and both rates."""
        size, copied = decoder_weight_bytes(measured.backend.model.network), copy_rate(self.source.device)
        read = size / (measured.token_ms(SHORT, self.tokens) / 1e3)
        return read / copied, f"{size / 1e9:.4g} GB at {read / 1e9:.4g} GB/s; copies {copied / 1e9:.4g} GB/s"

    def comparisons(self) -> list[Comparison]:
        """Return the comparisons within a run. The targets of the tiny model are for two cores, in float32."""
        is_tiny = self.source.dtype == torch.float32 and not (self.on_gpu or self.source.is_random)
        return [
            *compare_implementations(self.total_counts[0], has_targets=self.has_targets, is_tiny=is_tiny),
            *compare_counts(self.counts, has_targets=self.has_targets),
            *compare_with_peer(PEER_COUNTS),
        ]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_table_arguments(parser)
    parser.add_argument("--tokens", type=min_int(2), default=64, help="tokens of an answer (default %(default)s)")
    parser.add_argument(
        "--repetitions", type=min_int(1), default=3, help="repetitions of a measurement (default %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print two tables."""
    options = parse_arguments()
    source = Source(options)
    plan = Plan(source, options.tokens, options.repetitions)
    machine = describe_machine(name_gpu(source.device))
    heading = f"{machine}, {source.name}, {source.dtype}, threads: {torch.get_num_threads()}"
    run_table(options, heading, plan.stages(), plan.comparisons(), add_original_rate)


if __name__ == "__main__":
    sys.exit(run_program(main))

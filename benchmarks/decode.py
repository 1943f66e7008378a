"""How fast answers are decoded, beside what was promised and beside SAT's own generation in the same run.

python -m benchmarks.decode
python -m benchmarks.decode --only 'ours/*' 'original/decode-*'
python -m benchmarks.decode --only 'ours/ready'           in a fresh process, as a person would start
python -m benchmarks.decode --device cpu                  visualglm-tiny
python -m benchmarks.decode --device cpu --dtype bfloat16 --from_pretrained full-size --layers 1
python -m benchmarks.decode --list

Answers have a fixed number of tokens (the end token is forbidden) and the demos' sampling. Pictures are random pixels,
new ones wherever a row does not say otherwise. The subjects, each alone on the device:
    ours        the engine: token ids in, token ids out; text-49 adds the text
    int8, int4  the same on weights of few bits; int4-vision with the image part's in 4 bits as well
    original    SAT's filling_sequence with CachedAutoregressiveMixin and BaseStrategy on the same network, in whose
                demos nothing else decodes; its sequences are no longer than needed, which favours it
    hf          the Hugging Face network, by its ChatModel's stream_answer, text and all
    plain       model.chat of an exported directory, in a process that has only transformers
Many requests at once are asked twice: about new pictures, and, for the rate while all decode, about the same again.
A ratio of 1 or more keeps the promise. The promises are for one H200 with the published sizes in float16; the second
table's hold wherever they are printed.
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
from benchmarks.parts.machine import copy_rate, describe_machine, min_int, name_gpu
from benchmarks.parts.prompts import LONG, SHORT
from benchmarks.parts.table import (
    Comparison,
    Row,
    Stage,
    Table,
    Target,
    add_table_arguments,
    at_least,
    at_most,
    list_rows,
    show,
)
from benchmarks.parts.transformers_export import TransformersBackend
from model.command_line import ArgumentParser, run_program

SLOW_TOKENS = 32  # of the answers of those who need tens of milliseconds for each
# On one H200 at full size in float16, by "stage/row".
TARGETS: dict[str, Target] = {
    "ours/ready": at_most(10),
    f"ours/decode-{SHORT}": at_most(3.6),
    f"ours/decode-{LONG}": at_most(3.9),
    "ours/bandwidth": at_least(0.8),
    f"ours/first-{SHORT}": at_most(12),
    f"ours/known-{SHORT}": at_most(7),
    f"ours/first-{LONG}": at_most(35),
    "ours/memory": at_most(15.5),
    "ours/many-32": at_least(6500),
    "ours/many-32-all": at_least(5000),
    "ours/many-128": at_least(15000),
    "ours/many-128-all": at_least(11000),
    "int8/ready": at_most(10),
    f"int8/decode-{SHORT}": at_most(2.2),
    "int8/memory": at_most(9.5),
    "int4/ready": at_most(10),
    f"int4/decode-{SHORT}": at_most(1.7),
    "int4/memory": at_most(7.0),
    "int4-vision/memory": at_most(6.0),
    f"hf/decode-{SHORT}": at_most(3.6),
    f"hf/decode-{LONG}": at_most(3.9),
    f"hf/first-{SHORT}": at_most(12),
    f"hf/first-{LONG}": at_most(35),
    f"plain/decode-{SHORT}": at_most(11),
}
# What the original itself was measured at there; SAT's own generation should come near.
ORIGINAL_RESULTS = {
    f"original/decode-{SHORT}": 40.4,
    f"original/decode-{LONG}": 49.5,
    f"original/first-{SHORT}": 75.9,
    f"original/first-{LONG}": 115,
    "original/image": 66.1,
}


class Plan:
    """The stages and comparisons for a source of models.

    Attributes:
        source: of the models.
        on_gpu: whether it is a GPU that answers.
        has_promises: whether the first table's promises are for this model on this kind of device.
        tokens: of an answer.
        counts: how many requests are answered at once.
    """

    def __init__(self, source: Source, tokens: int, repetitions: int) -> None:
        self.source = source
        self.on_gpu = source.device.type == "cuda"
        self.has_targets = self.on_gpu and source.is_full_size and source.dtype == torch.float16
        self.tokens = tokens
        self.repetitions = repetitions
        self.counts = (32, 128) if self.on_gpu else (16,)
        self.concurrent_tokens = 128 if self.on_gpu else tokens

    def stages(self) -> list[Stage]:
        """Return everything that can be measured. Ours comes first, so that its start is that of a fresh process."""
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
            self.stage("hf", lambda: ChatBackend(hf()), self.ready() + self.answers()),
            Stage("plain", self.plain, self.with_targets("plain", self.exported())),
        ]

    def stage(self, name: str, make: Callable[[], Any], rows: list[Row]) -> Stage:
        """Return a stage whose subject is measured as often as asked for."""
        return Stage(name, lambda: Measurements(make(), self.repetitions), self.with_targets(name, rows))

    def with_targets(self, stage: str, rows: list[Row]) -> list[Row]:
        """Return the rows with their promises, where these are for what is measured."""
        if not self.has_targets:
            return rows
        return [Row(row.name, row.what, row.measure, TARGETS.get(f"{stage}/{row.name}")) for row in rows]

    def quantized_engine(self, bits: int, vision: bool) -> EngineBackend:
        """Return the engine on weights of few bits."""
        return EngineBackend(self.source.sat(bits, vision))

    def ready(self) -> list[Row]:
        """Return the row of the start, which must be its stage's first."""
        return [Row("ready", "first answer beyond the second's time, s", methodcaller("startup_s"))]

    def decode(self, lengths: list[int], tokens: int | None = None) -> list[Row]:
        """Return the rows of decoding alone."""
        count = tokens or self.tokens
        return [Row(f"decode-{n}", f"prompt {n}, ms/token", methodcaller("token_ms", n, count)) for n in lengths]

    def first(self) -> list[Row]:
        """Return the rows of the first token about a new picture."""
        return [Row(f"first-{n}", f"prompt {n}, first token, ms", methodcaller("first_ms", n)) for n in (SHORT, LONG)]

    def answers(self) -> list[Row]:
        """Return the rows of one answer at a time."""
        what = f"prompt {SHORT}, first token about a known picture, ms"
        known = Row(f"known-{SHORT}", what, methodcaller("first_ms", SHORT, known=True))
        return [*self.decode([SHORT, LONG]), *self.first(), known]

    def engine(self) -> list[Row]:
        """Return the rows of what the engine does with the device."""
        image = Row("image", "a picture, ms", methodcaller("image_ms"))
        text = Row(f"text-{SHORT}", f"prompt {SHORT}, by stream_answer, text and all, ms/token", self.text_ms)
        return [image, text, self.weights(), *self.memory()]

    def text_ms(self, measured: Measurements) -> float:
        """Return milliseconds from token to token where the same model answers in text."""
        return Measurements(ChatBackend(measured.backend.model), self.repetitions).token_ms(SHORT, self.tokens)

    def weights(self) -> Row:
        """Return the row of how fast weights are read."""
        return Row("bandwidth", "weights read while decoding, share of the copy rate", self.bandwidth)

    def memory(self) -> list[Row]:
        """Return the row of the most memory, which the device must count."""
        what = f"prompt {LONG}, most memory, GiB"
        return [Row("memory", what, methodcaller("peak_gib", LONG, self.tokens))] if self.on_gpu else []

    def concurrent(self) -> list[Row]:
        """Return the rows of many requests at once with pictures of their own."""
        rows = []
        for n in self.counts:
            what = f"{n} requests at once, {SHORT} + {self.concurrent_tokens}"
            rows += [
                Row(f"many-{n}", f"{what}, while all decode, tokens/s", partial(self.steady_rate, n)),
                Row(f"many-{n}-all", f"{what}, pictures and all, tokens/s", partial(self.total_rate, n)),
            ]
        return rows

    def steady_rate(self, count: int, measured: Measurements) -> float:
        """Return the tokens a second of so many requests while all decode, their pictures being known."""
        return measured.concurrent(count, self.concurrent_tokens)[1].steady_rate

    def total_rate(self, count: int, measured: Measurements) -> float:
        """Return the tokens a second of so many requests from the first question on."""
        return measured.concurrent(count, self.concurrent_tokens)[0].total_rate

    def quantized(self) -> list[Row]:
        """Return the rows of weights of few bits."""
        return [*self.ready(), *self.decode([SHORT, LONG]), self.weights(), *self.memory(), *self.concurrent()[:1]]

    def original(self) -> list[Row]:
        """Return the rows of SAT's own generation."""
        count = 2 if self.on_gpu else self.counts[0]
        tokens = SLOW_TOKENS if self.on_gpu else self.concurrent_tokens
        what = f"{count} requests in turn, {SHORT} + {tokens}, pictures and all, tokens/s"
        rows = [
            *self.decode([SHORT, LONG], tokens),
            *self.first(),
            Row("image", "a picture, ms", methodcaller("image_ms")),
            Row("in-turn", what, lambda m: m.backend.answer_in_turn(SHORT, tokens, m.images(count))),
        ]
        return [self.with_original_result(row) for row in rows]

    def with_original_result(self, row: Row) -> Row:
        """Return the row of the original with what was measured of it before, where that is comparable."""
        before = ORIGINAL_RESULTS.get(f"original/{row.name}")
        if before is None or not self.has_targets:
            return row
        note = f"the original itself: {before:g}"
        return Row(row.name, row.what, lambda measured: (row.value(measured)[0], note))

    def exported(self) -> list[Row]:
        """Return the rows of plain transformers."""
        decode = [Row(f"decode-{n}", f"prompt {n}, ms/token", methodcaller("token_ms", n)) for n in (SHORT, LONG)]
        what = f"prompt {SHORT}, first token, ms"
        return [*decode, Row(f"first-{SHORT}", what, methodcaller("first_ms", SHORT))]

    def plain(self) -> TransformersBackend:
        """Return what plain transformers took."""
        return TransformersBackend(self.source, [SHORT, LONG], SLOW_TOKENS)

    def bandwidth(self, measured: Measurements) -> tuple[float, str]:
        """Return the share of the copy rate at which weights are read, and the rates."""
        size, copied = decoder_weight_bytes(measured.backend.model.network), copy_rate(self.source.device)
        read = size / (measured.token_ms(SHORT, self.tokens) / 1e3)
        return read / copied, f"{size / 1e9:.4g} GB at {read / 1e9:.4g} GB/s; copies {copied / 1e9:.4g} GB/s"

    def comparisons(self) -> list[Comparison]:
        """Return what is compared within a run. The tiny model's promises are for two cores, in float32."""
        own, theirs = f"ours/decode-{SHORT}", f"original/decode-{SHORT}"
        many = f"ours/many-{self.counts[0]}"
        is_tiny = self.source.dtype == torch.float32 and not (self.on_gpu or self.source.is_random)
        three, eight, fifth = (at_least(3), at_least(8), at_least(1 / 1.2)) if is_tiny else (None, None, None)
        eleven = at_least(11) if self.has_targets else None
        return [
            Comparison("decoding", own, theirs, three or eleven),
            Comparison("decoding", f"ours/decode-{LONG}", f"original/decode-{LONG}"),
            Comparison("first token", f"ours/first-{SHORT}", f"original/first-{SHORT}"),
            Comparison("first token", f"ours/first-{LONG}", f"original/first-{LONG}"),
            Comparison("a picture", "ours/image", "original/image"),
            Comparison("many, pictures and all", f"{many}-all", "original/in-turn", eight, is_time=False),
            Comparison("many, while all decode", many, "original/rate", eight, is_time=False),
            Comparison("int8 and whole weights", f"int8/decode-{SHORT}", own, fifth),
            Comparison("int4 and whole weights", f"int4/decode-{SHORT}", own),
            Comparison("text and ids", f"ours/text-{SHORT}", own),
            Comparison("the Hugging Face side and ours", f"hf/decode-{SHORT}", own),
        ]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_table_arguments(parser)
    parser.add_argument("--tokens", type=min_int(2), default=64, help="of an answer (default %(default)s)")
    parser.add_argument("--repetitions", type=min_int(1), default=3, help="of a measurement (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the rows asked for and print two tables."""
    options = parse_arguments()
    source = Source(options)
    plan, table = Plan(source, options.tokens, options.repetitions), Table(options.only)
    if options.list:
        list_rows(plan.stages())
        return
    machine = describe_machine(name_gpu(source.device))
    show(f"{machine}, {source.name}, {source.dtype}, threads: {torch.get_num_threads()}\n")
    try:
        table.run(plan.stages())
    finally:
        compare(table, plan)


def compare(table: Table, plan: Plan) -> None:
    """Print what can be compared of the rows measured."""
    rate = table.results.get(f"original/decode-{SHORT}")
    if rate is not None:
        table.results["original/rate"] = 1e3 / rate  # tokens/s of one request, which is all that it answers at once
    table.compare(plan.comparisons())


if __name__ == "__main__":
    sys.exit(run_program(main))

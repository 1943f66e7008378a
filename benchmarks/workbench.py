"""Measure patching, tracing and steering with the workbench, on drawn scenes.

python -m benchmarks.workbench
python -m benchmarks.workbench --count 20 --only 'workbench/steer/*'

    exchange   with the image embeddings of another scene, the answer is that about the other scene
    traced     answers of which recording all points changes no token
    time       median time of an answer while all points are recorded, divided by that without
    steer      vectors from 50 pairs of scenes make the network answer in the other language than the prompt's; their
               number of right answers is given, too
"""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property, partial
from itertools import islice

import torch

from benchmarks.explain import LANGUAGES, Case, draw_cases
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_least, at_most, run_table
from model import SatChatModel, load_sat
from model.command_line import ArgumentParser, run_program
from model.inspection import Workbench
from model.inspection.workbench import InspectedAnswer
from model.placement import choose_device
from model.prompt import is_chinese
from tiny.grading import is_correct

PAIRS = 50  # of scenes, from which the steering vectors are computed
FIRST_SCENE = 100  # that is measured; those before were used to choose the numbers below
LAYERS = 2  # that are steered, the last ones
ROWS = 4  # steering vectors of a layer: of the first tokens of an answer, and of all later ones
STRENGTH = 1.0
MIN_EXCHANGED, MIN_TRACED, MAX_TIME, MIN_STEERED = at_least(95), at_least(100), at_most(1.5), at_least(90)


class WorkbenchBenchmark:
    """Measures the workbench with one model.

    Args:
        model: the model.
        count: number of scenes of each row.
    """

    def __init__(self, model: SatChatModel, count: int) -> None:
        self.bench = Workbench(model)
        self.count = count
        residuals = [name for name in self.bench.points if fnmatch(name, "layers.*.residual")]
        self.steered = residuals[-LAYERS:]

    def cases(self, language: str) -> list[Case]:
        """Return the cases of a row. The steering vectors are computed from others."""
        return list(islice(draw_cases(language), FIRST_SCENE, FIRST_SCENE + self.count))

    def answer(self, case: Case, question: str = "") -> InspectedAnswer:
        """Return the answer to the question of a case, or to another one about its scene."""
        return self.bench.answer(case.conversation(), question or case.example.question, any_language=True)

    def exchange(self, language: str) -> float:
        """Return the percentage of exchanged image embeddings that exchange the answer."""
        cases = self.cases(language)
        return 100 * statistics.mean(map(self.is_exchanged, cases, [*cases[1:], cases[0]]))

    def is_exchanged(self, case: Case, other: Case) -> bool:
        """Return whether patching in the embeddings of another scene gives the answer about that scene."""
        with self.bench.trace("image_embeddings") as trace:
            expected = self.answer(other, case.example.question)
        with self.bench.patch("image_embeddings", trace["image_embeddings"]):
            return self.answer(case).token_ids == expected.token_ids

    @cached_property
    def traced(self) -> list[tuple[bool, float]]:
        """Whether recording all points changes no token, and its time divided by that without, for each case."""
        return [self.trace(case) for language in LANGUAGES for case in self.cases(language)]

    def trace(self, case: Case) -> tuple[bool, float]:
        """Answer a case without and with a record of all points."""
        self.bench.answer(case.conversation(), case.example.question, 1)  # draws the scene
        started = time.perf_counter()
        plain = self.answer(case)
        answered = time.perf_counter()
        with self.bench.trace():
            same = self.answer(case) == plain
        return same, (time.perf_counter() - answered) / (answered - started)

    @cached_property
    def directions(self) -> dict[str, torch.Tensor]:
        """The steering vectors from Chinese to English, [ROWS, D] for each steered point."""
        english, chinese = self.mean_states("en"), self.mean_states("zh")
        return {name: english[name] - chinese[name] for name in self.steered}

    def mean_states(self, language: str) -> dict[str, torch.Tensor]:
        """Return the mean states from which the tokens of answers are computed, [ROWS, D] for each steered point."""
        states: dict[str, list[list[torch.Tensor]]] = {name: [[] for _ in range(ROWS)] for name in self.steered}
        for case in islice(draw_cases(language), PAIRS):
            with self.bench.trace(*self.steered) as trace:
                first = self.answer(case).prompt_length - 1
            for name, rows in states.items():
                for number, state in enumerate(trace[name][first:]):
                    rows[min(number, ROWS - 1)].append(state)
        return {name: torch.stack([torch.stack(row).mean(0) for row in rows]) for name, rows in states.items()}

    def steer(self, language: str) -> tuple[float, str]:
        """Return the percentage of steered answers in the other language.

        The note has the percentage of answers that are also right.
        """
        sign = 1 if language == "zh" else -1
        [other] = {*LANGUAGES} - {language}
        switched, right = [], []
        for case in self.cases(language):
            with ExitStack() as changes:
                for name, vectors in self.directions.items():
                    changes.enter_context(self.bench.steer(name, vectors, sign * STRENGTH))
                text = self.answer(case).text
            switched.append(bool(text) and is_chinese(text) == (other == "zh"))
            right.append(switched[-1] and is_correct(replace(case.example, language=other), text))
        return 100 * statistics.mean(switched), f"{100 * statistics.mean(right):.0f} % in the other language and right"


def make_rows() -> list[Row]:
    """Return the rows."""
    rows = []
    for code, other in (("zh", "en"), ("en", "zh")):
        rows += [
            Row(f"exchange/{code}", "% of answers exchanged", lambda b, c=code: b.exchange(c), MIN_EXCHANGED),
            Row(f"steer/{code}-{other}", "% of answers in it", lambda b, c=code: b.steer(c), MIN_STEERED),
        ]
    return [
        *rows,
        Row("traced", "% unchanged", lambda b: 100 * statistics.mean(same for same, _ in b.traced), MIN_TRACED),
        Row("time", "x without records", lambda b: statistics.median(ratio for _, ratio in b.traced), MAX_TIME),
    ]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    parser.add_argument("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR", help="model")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if available)")
    parser.add_argument("--count", type=min_int(2), default=100, help="scenes in each language (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    device = choose_device(options.device)

    def make() -> WorkbenchBenchmark:
        return WorkbenchBenchmark(load_sat(options.from_pretrained, device=str(device)), options.count)

    machine = f"{describe_machine(name_gpu(device))}, {options.from_pretrained}"
    run_table(options, machine, [Stage("workbench", partial(make), make_rows())])


if __name__ == "__main__":
    sys.exit(run_program(main))

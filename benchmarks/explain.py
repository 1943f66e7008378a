"""How far the maps of `model.explain` can be trusted, on drawn scenes whose truth is known.

python -m benchmarks.explain
python -m benchmarks.explain --count 50 --only 'explain/peak/*'
python -m benchmarks.explain --from_pretrained full-size

Questions about the color or the place of a thing, and whether there is one, in scenes of three to five things that no
training used. Right answers alone are explained, and of "is there" those with yes.
    peak       the highest patch of the map lies in the thing asked about: its radius x 1.15 + half a patch
    area       chance: share of the image within that distance
    covered    the answer changes if the tenth of the patches that the map ranks first gets the image's mean color
    random     the same for a random tenth
    reliance   area under the ROC curve: reliance of right answers, against that of answers about another scene
    seconds    median time of an explanation beyond its answer
    given      median time to explain an answer that is given: a short one, and a sentence. A model of random weights,
               such as full-size, has these rows alone
    words      in right descriptions of scenes with one thing of each kind: a thing's name has a map of its own with the
               peak in the thing; names without a map do not count
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, count, islice, pairwise

import numpy as np
import torch
from PIL import Image

from benchmarks.full_size import EMBEDDED_MODEL, Source, add_model_arguments
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.table import Row, Stage, add_table_arguments, at_least, at_most, run_table
from model import CHINESE, ENGLISH, Conversation, SatChatModel, load_tokenizer
from model.answers import greedy_config
from model.command_line import ArgumentParser, run_program
from model.explain import Explanation, explain_answer
from tiny.grading import is_correct
from tiny.questions import Example, askable_kinds, sample_example
from visualglm.evaluation.reliance import area_under_roc
from visualglm.scenes.scene import SIZES, Scene, Thing, render_scene, sample_scene
from visualglm.scenes.vocabulary import name_thing

LANGUAGES = {"zh": CHINESE, "en": ENGLISH}
QUESTION_KINDS = ("colour", "where", "exists")
MIN_THINGS = 3
IMAGE_SIZE = 448
SEEDS = 2**41  # of scenes that neither training nor evaluation uses
MARGIN = 1.15  # of a thing's radius
COVERED_FRACTION = 0.1
MAX_NEW_TOKENS = 64
MIN_PEAK, MIN_COVERED, MAX_RANDOM = at_least(95), at_least(80), at_most(15)
GIVEN_QUESTION = "What is in the picture?"
GIVEN = {"short": "Red.", "long": "There is a red ring at the top left, and a blue square in the middle of the image."}
GIVEN_REPETITIONS = 9
MAX_SECONDS = {"cpu": at_most(0.5), "cuda": at_most(0.08)}
MIN_AUROC = at_least(0.9)


@dataclass(frozen=True)
class Case:
    """A question about a scene with its right answer.

    Attributes:
        things: the things that the question asks about.
    """

    scene: Scene
    example: Example
    things: list[Thing]

    @cached_property
    def image(self) -> Image.Image:
        """The rendered scene."""
        return render_scene(self.scene, IMAGE_SIZE)

    def conversation(self, image: Image.Image | torch.Tensor | None = None) -> Conversation:
        """Return the conversation before the question, about another image if one is given."""
        return Conversation(self.image if image is None else image, [], LANGUAGES[self.example.language])

    def contains(self, peak: tuple[float, float] | None, patch: float) -> bool:
        """Return whether a peak lies in a thing that the question asks about.

        Args:
            patch: side of a patch, as a fraction of the image's side.
        """
        return peak is not None and any(
            math.dist(peak, (thing.x, thing.y)) <= reach(thing, patch) for thing in self.things
        )

    def area(self, patch: float) -> float:
        """Return the share of the patches that `contains` accepts."""
        centers = np.arange(patch / 2, 1, patch)
        return float(np.mean([self.contains((x, y), patch) for x in centers for y in centers]))


def reach(thing: Thing, patch: float) -> float:
    """Return the distance from a thing's center within which a peak counts."""
    return SIZES[thing.size] * thing.scale * MARGIN + patch / 2


def draw_cases(language: str) -> Iterator[Case]:
    """Yield cases without end, cycling through the kinds of questions."""
    number = found = 0
    while True:
        rng = np.random.default_rng([SEEDS, list(LANGUAGES).index(language), number])
        number += 1
        scene, kind = sample_scene(rng), QUESTION_KINDS[found % len(QUESTION_KINDS)]
        if len(scene.things) < MIN_THINGS or kind not in askable_kinds(scene):
            continue
        example = sample_example(scene, rng, language, kind)  # type: ignore[arg-type]
        things = [thing for thing in scene.things if is_asked_about(thing, example)]
        if example.history or not things or (kind == "exists" and example.facts.value is not True):
            continue
        found += 1
        yield Case(scene, example, things)


def draw_descriptions(language: str) -> Iterator[Case]:
    """Yield cases without end whose answer describes a scene with one thing of each kind."""
    for number in count():
        rng = np.random.default_rng([SEEDS, len(LANGUAGES) + list(LANGUAGES).index(language), number])
        scene = sample_scene(rng)
        if MIN_THINGS <= len(scene.things) == len({thing.kind for thing in scene.things}):
            example = sample_example(scene, rng, language, "describe")  # type: ignore[arg-type]
            if not example.history:
                yield Case(scene, example, list(scene.things))


def is_name_hit(case: Case, explanation: Explanation, thing: Thing) -> bool | None:
    """Return whether the map of a thing's first name in the answer has its peak in the thing; None without a map."""
    name = name_thing(case.example.language, thing.kind)
    texts = [token.text for token in explanation.tokens]
    starts = [0, *accumulate(map(len, texts))]
    first = "".join(texts).index(name)
    parts = [
        grid
        for grid, (start, end) in zip(explanation.token_maps, pairwise(starts), strict=True)
        if start < first + len(name) and end > first
    ]
    grid = np.sum(parts, 0)
    if not grid.any():
        return None
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    patch = 1 / len(grid)
    return replace(case, things=[thing]).contains(((column + 0.5) * patch, (row + 0.5) * patch), patch)


def is_asked_about(thing: Thing, example: Example) -> bool:
    """Return whether a question names the kind and the color of a thing, or one of them alone."""
    facts = example.facts
    return facts.kind in (None, thing.kind) and facts.color in (None, thing.color)


@dataclass(frozen=True)
class Explained:
    """A case whose answer is right, with the explanation.

    Attributes:
        seconds: time of the explanation beyond the answer.
    """

    case: Case
    explanation: Explanation
    seconds: float

    @property
    def patch(self) -> float:
        """Side of a patch, as a fraction of the image's side."""
        return 1 / len(self.explanation.map)


class ExplainBenchmark:
    """Measures explanations of one model.

    Args:
        model: the model.
        count: number of explained answers in each language.
    """

    def __init__(self, model: SatChatModel, count: int) -> None:
        self.model = model
        self.count = count
        self.explained: dict[str, list[Explained]] = {}

    def cases(self, language: str) -> list[Explained]:
        """Return the explained answers of a language; the first call explains them."""
        if language not in self.explained:
            found: list[Explained] = []
            for case in draw_cases(language):
                if len(found) == self.count:
                    break
                started = time.perf_counter()
                [answer] = self.answers([case.conversation()], [case])
                answered = time.perf_counter()
                if is_correct(case.example, answer):
                    explanation = explain_answer(self.model, case.conversation(), case.example.question)
                    seconds = time.perf_counter() - answered - (answered - started)
                    found.append(Explained(case, explanation, seconds))
            self.explained[language] = found
        return self.explained[language]

    def answers(self, conversations: list[Conversation], cases: list[Case]) -> list[str]:
        """Return the greedy answers to the questions of cases."""
        config = greedy_config(self.model, MAX_NEW_TOKENS)
        questions = [(one, case.example.question) for one, case in zip(conversations, cases, strict=True)]
        return [str(answer) for answer in self.model.answer_batch(questions, config)]

    def peak(self, language: str) -> tuple[float, str]:
        """Return the share of maps with their peak in the thing, in percent: of all, and of each kind of question."""
        cases = self.cases(language)
        hits = {kind: [self.is_hit(one) for one in cases if one.case.example.kind == kind] for kind in QUESTION_KINDS}
        by_kind = ", ".join(f"{kind} {100 * statistics.mean(each):.1f}" for kind, each in hits.items() if each)
        return 100 * statistics.mean(map(self.is_hit, cases)), f"{len(cases)} answers: {by_kind}"

    def is_hit(self, one: Explained) -> bool:
        """Return whether the peak of a map lies in the thing asked about."""
        return one.case.contains(one.explanation.peak, one.patch)

    def area(self, language: str) -> float:
        """Return the mean percentage of the image in which a peak counts."""
        return 100 * statistics.mean(one.case.area(one.patch) for one in self.cases(language))

    def covered(self, language: str, by_chance: bool) -> float:
        """Return the percentage of answers that change if a tenth of the patches is covered."""
        cases = self.cases(language)
        conversations = [
            one.case.conversation(self.cover_patches(one, number if by_chance else None))
            for number, one in enumerate(cases)
        ]
        answers = self.answers(conversations, [one.case for one in cases])
        return 100 * statistics.mean(
            answer != one.explanation.answer for answer, one in zip(answers, cases, strict=True)
        )

    def cover_patches(self, one: Explained, seed: int | None) -> torch.Tensor:
        """Return the pixels with a tenth of the patches covered: the highest of the map, or random ones by `seed`."""
        ranks = torch.from_numpy(one.explanation.map).flatten()
        if seed is not None:
            ranks = torch.rand(len(ranks), generator=torch.Generator().manual_seed(seed))
        chosen = torch.zeros(len(ranks))
        chosen[ranks.topk(round(COVERED_FRACTION * len(ranks))).indices] = 1
        pixels = self.model.image_cache.to_pixels(one.case.image)
        grid = chosen.view(1, 1, *one.explanation.map.shape)
        is_covered = torch.nn.functional.interpolate(grid, pixels.shape[-2:], mode="nearest") > 0
        return torch.where(is_covered, pixels.mean((2, 3), keepdim=True), pixels)

    def reliance(self, language: str) -> tuple[float, str]:
        """Return the area under the ROC curve of the reliance, and the medians of both groups."""
        cases = self.cases(language)
        others = [*cases[1:], cases[0]]
        swapped = [one.case.conversation(other.case.image) for one, other in zip(cases, others, strict=True)]
        answers = self.answers(swapped, [one.case for one in cases])
        wrong = [
            explain_answer(self.model, one.case.conversation(), one.case.example.question, answer).reliance
            for one, answer in zip(cases, answers, strict=True)
            if answer != one.explanation.answer
        ]
        right = [one.explanation.reliance for one in cases]
        medians = f"medians {statistics.median(right):.1f} and {statistics.median(wrong):.1f}, {len(wrong)} of another"
        return area_under_roc(np.array(right), np.array(wrong)), medians

    def words(self, language: str) -> tuple[float, str]:
        """Return the percentage of names whose own map has its peak in the thing, and how many have a map."""
        hits: list[bool | None] = []
        for case in islice(draw_descriptions(language), self.count):
            [answer] = self.answers([case.conversation()], [case])
            if is_correct(case.example, answer):
                explanation = explain_answer(self.model, case.conversation(), case.example.question, answer)
                hits += [is_name_hit(case, explanation, thing) for thing in case.things]
        shown = [hit for hit in hits if hit is not None]
        return 100 * statistics.mean(shown), f"{len(shown)} of {len(hits)} names have a map"

    def seconds(self, language: str) -> float:
        """Return the median time of an explanation beyond the answer, in seconds."""
        return statistics.median(one.seconds for one in self.cases(language))

    def given(self, name: str) -> tuple[float, str]:
        """Return the median time to explain a given answer, in seconds, and its tokens; the first time is a warm-up."""
        about = Conversation(render_scene(sample_scene(np.random.default_rng(SEEDS)), IMAGE_SIZE), [], ENGLISH)
        seconds, found = [], None
        for _ in range(GIVEN_REPETITIONS + 1):
            started = time.perf_counter()
            found = explain_answer(self.model, about, GIVEN_QUESTION, GIVEN[name])
            seconds.append(time.perf_counter() - started)
        assert found is not None
        times = seconds[1:]
        return statistics.median(times), f"{len(found.tokens)} tokens, {min(times):.3f} to {max(times):.3f}"


def make_rows(device: str, is_random: bool = False) -> list[Row]:
    """Return the rows of given answers; for a trained model also the rows of each language."""
    rows = [
        Row(f"given/{name}", "s to explain a given answer, median", lambda b, n=name: b.given(n), MAX_SECONDS[device])
        for name in GIVEN
    ]
    if is_random:
        return rows
    for code in LANGUAGES:
        rows += [
            Row(f"peak/{code}", "% of peaks in the thing asked about", lambda b, c=code: b.peak(c), MIN_PEAK),
            Row(f"area/{code}", "% of the image that counts as the thing", lambda b, c=code: b.area(c)),
            Row(
                f"covered/{code}",
                "% of answers changed by the map's first tenth",
                lambda b, c=code: b.covered(c, False),
                MIN_COVERED,
            ),
            Row(f"random/{code}", "% changed by a random tenth", lambda b, c=code: b.covered(c, True), MAX_RANDOM),
            Row(f"reliance/{code}", "area under the ROC curve", lambda b, c=code: b.reliance(c), MIN_AUROC),
            Row(f"words/{code}", "% of peaks of a name's map in the thing", lambda b, c=code: b.words(c), MIN_PEAK),
            Row(f"seconds/{code}", "s beyond the answer, median", lambda b, c=code: b.seconds(c), MAX_SECONDS[device]),
        ]
    return rows


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_table_arguments(parser)
    add_model_arguments(parser)
    help_ = "explained answers in each language (default %(default)s)"
    parser.add_argument("--count", type=min_int(2), default=500, help=help_)
    return parser.parse_args()


def main() -> None:
    """Measure the selected rows and print them."""
    options = parse_arguments()
    options.from_pretrained = options.from_pretrained or EMBEDDED_MODEL
    source = Source(options)
    machine = f"{describe_machine(name_gpu(source.device))}, {source.name}, {source.dtype}"

    def make() -> ExplainBenchmark:
        model, tokenizer = source.sat(), load_tokenizer(EMBEDDED_MODEL if source.is_random else source.name)
        return ExplainBenchmark(SatChatModel(model.network, tokenizer), options.count)

    run_table(options, machine, [Stage("explain", make, make_rows(source.device.type, source.is_random))])


if __name__ == "__main__":
    sys.exit(run_program(main))

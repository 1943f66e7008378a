"""Ask a model questions about pictures that it has never seen, through the public chat.

    python -m tiny.evaluate --from_pretrained visualglm-tiny --seed 1000 --count 400

Prints the share of right answers by kind of question and language, with 95 % intervals, and beside each the share when
the picture is swapped for another scene's: where that is no lower, the picture was not looked at. The last line is
the share over all.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from model import ChatModel, Conversation, GenerationConfig, Turn, load_sat
from tiny.data import LANGUAGES
from tiny.questions import QUESTION_KINDS, Example, ask, askable, is_right
from tiny.scenes import Scene, draw_scene, sample_scene

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0, max_new_tokens=120)
# Training counts its steps from 0 with the same generator: keep clear of them.
SEED_OFFSET = 2**40
PICTURE_SIZE = 448


@dataclass(frozen=True)
class Result:
    """One question as it was answered: about its picture, and about another one (None where it has none)."""

    example: Example
    scene: Scene | None
    answer: str
    swapped_answer: str | None = None

    @property
    def right(self) -> bool:
        return is_right(self.example, self.answer)

    @property
    def right_when_swapped(self) -> bool | None:
        return None if self.swapped_answer is None else is_right(self.example, self.swapped_answer)


def draw_questions(seed: int, count: int, most_things: int) -> Iterator[tuple[Scene | None, Example]]:
    """Yield `count` questions, of every kind and both languages in turn, each about a scene of its own."""
    rng = np.random.default_rng([SEED_OFFSET, seed])
    kinds = [(kind, language) for kind in QUESTION_KINDS for language in ("zh", "en")]
    for number in range(count):
        kind, language = kinds[number % len(kinds)]
        scene = None if kind == "text" else sample_scene(rng, most_things)
        while scene is not None and kind not in askable(scene):
            scene = sample_scene(rng, most_things)
        yield scene, ask(scene, rng, language, kind)


def answer(model: ChatModel, scene: Scene | None, example: Example) -> str:
    """Ask the model."""
    image = None if scene is None else draw_scene(scene, PICTURE_SIZE)
    turns = [Turn(question, reply) for question, reply in example.history]
    conversation = Conversation(image, turns, LANGUAGES[example.language])
    return "".join(piece.text for piece in model.stream_answer(conversation, example.question, GREEDY))


def evaluate(model: ChatModel, seed: int, count: int, most_things: int = 3, swap: bool = False) -> list[Result]:
    """Ask `count` questions, with `swap` each also about another scene, and return how they were answered."""
    rng = np.random.default_rng([SEED_OFFSET, seed, 1])
    questions = tqdm(draw_questions(seed, count, most_things), total=count, unit="question", disable=None)
    results = []
    for scene, example in questions:
        other = None if scene is None or not swap else answer(model, sample_scene(rng, most_things), example)
        results.append(Result(example, scene, answer(model, scene, example), other))
    return results


def share(verdicts: list[bool]) -> float:
    """Return the percentage that is true."""
    return 100 * sum(verdicts) / max(1, len(verdicts))


def accuracy(results: list[Result]) -> float:
    """Return the percentage of right answers."""
    return share([result.right for result in results])


def interval(verdicts: list[bool]) -> tuple[float, float]:
    """Return the 95 % interval of a percentage (Wilson's, https://www.jstor.org/stable/2276774)."""
    count, z = max(1, len(verdicts)), 1.96
    p = sum(verdicts) / count
    centre = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return 100 * (centre - half), 100 * (centre + half)


def format_cell(results: list[Result]) -> str:
    """Return the share of right answers, its interval, and the share with swapped pictures."""
    verdicts = [result.right for result in results]
    low, high = interval(verdicts)
    swapped = [verdict for result in results if (verdict := result.right_when_swapped) is not None]
    beside = f"{share(swapped):6.1f}%" if swapped else f"{'-':>7}"
    return f"{share(verdicts):7.1f}% [{low:5.1f}, {high:5.1f}] {beside}"


def print_table(results: list[Result]) -> None:
    """Print the accuracy by kind and language, and over all in the last line."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        for kind in (result.example.kind, "all"):
            groups[kind, result.example.language].append(result)
    print(f"{'kind':<10}" + "".join(f"{f'{language} [95 %]  swapped':>32}" for language in LANGUAGES))
    for kind in (*QUESTION_KINDS, "all"):
        print(f"{kind:<10}" + "".join(f"{format_cell(groups[kind, language]):>32}" for language in LANGUAGES))
    print(f"overall {accuracy(results):.1f} %")


def main() -> None:
    """Evaluate the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from_pretrained", default="visualglm-tiny", help="name or directory of the model")
    parser.add_argument("--seed", type=int, default=1000, help="of the pictures and questions")
    parser.add_argument("--count", type=int, default=400, help="questions")
    parser.add_argument("--most_things", type=int, default=3, help="things in a picture, at most")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--show_wrong", type=int, default=0, help="print this many wrong answers")
    options = parser.parse_args()
    model = load_sat(options.from_pretrained, device=options.device, dtype=options.dtype)
    results = evaluate(model, options.seed, options.count, options.most_things, swap=True)
    for result in [result for result in results if not result.right][: options.show_wrong]:
        example = result.example
        print(f"[{example.kind}] {example.question}\n  expected: {example.answer}\n  answered: {result.answer}")
    print_table(results)


if __name__ == "__main__":
    main()

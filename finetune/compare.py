"""Compare the answers of two models to the same questions of held-out data.

python -m finetune.compare visualglm-tiny checkpoints/RUN --data held-out/dataset.json --html page.html
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm  # type: ignore[import-untyped]

from model import SatChatModel, SettingError, load_sat
from model.command_line import ArgumentParser, print_text, run_program
from model.html_page import Article, Line, write_page
from model.images.preprocess import load_image
from model.placement import DTYPES

from .check import find_unreadable_images
from .errors import BadRowError, DataError
from .evaluation import ComparedQuestion, Question, ScoredAnswer, questions_of, score_answers
from .rows import OnBadRow, iterate_usable_rows, raise_for_bad_rows, read_rows

DEFAULT_SHOWN = 20  # questions to print
MIN_ANSWER_TOKENS = 256  # lower bound of the token limit of answers
CORRECT, WRONG, EXPECTED = "✓", "✗", "expected"
SCORE_LABEL = "Exactly the expected answer"


def to_article(pair: ComparedQuestion, names: Sequence[str]) -> Article:
    """Return an article with a question, its image, its history and both answers."""
    question = pair.question
    lines = [Line("row", str(question.row))]
    for turn in question.history:
        lines += [Line("before", turn.question), Line("answered", turn.answer)]
    lines += [Line("question", question.text), Line("expected", question.expected)]
    answers = zip(names, (pair.before, pair.after), strict=True)
    lines += [Line(name, answer.text, verdict(answer)) for name, answer in answers]
    return Article(None if question.image is None else load_image(question.image), lines)


def verdict(answer: ScoredAnswer) -> Literal["right", "wrong"]:
    """Return the verdict on an answer."""
    return "right" if answer.is_correct else "wrong"


def read_questions(path: Path, on_bad_row: OnBadRow = "error", count: int | None = None) -> list[Question]:
    """Return the first `count` questions of a file; None for all.

    Raises:
        DataError: the file cannot be read, has no usable question, or has bad rows that are not to be skipped.
    """
    rows = read_rows(path)
    bad: list[BadRowError] = []
    questions = list(islice(questions_of(row for _, row in iterate_usable_rows(rows, bad)), count))
    images: dict[Path, list[int]] = {}
    for question in questions:
        if question.image is not None:
            images.setdefault(question.image, []).append(question.row)
    bad += find_unreadable_images(images)
    raise_for_bad_rows(rows, bad, on_bad_row)
    broken = {error.number for error in bad}
    usable = [question for question in questions if question.row not in broken]
    if not usable:
        raise DataError(f"No question of {path} can be asked: the images of the first {count} are broken.")
    return usable


def ask_model(model: SatChatModel, questions: Sequence[Question], name: str) -> Iterator[ScoredAnswer]:
    """Yield a model's answer to each question, with a progress bar."""
    yield from tqdm(
        score_answers(model, questions, min_tokens=MIN_ANSWER_TOKENS),
        desc=name,
        total=len(questions),
        leave=False,
        disable=None,
    )


def describe_score(name: str, answers: Sequence[ScoredAnswer]) -> str:
    """Return the number and the percentage of correct answers as text."""
    right = sum(answer.is_correct for answer in answers)
    return f"{name}: {right} of {len(answers)} ({100 * right / len(answers):.1f} %)"


def show_line(text: str) -> str:
    """Return text on one line, its control characters replaced, which a terminal would interpret."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def format_compared(pair: ComparedQuestion, names: Sequence[str]) -> str:
    """Return a question with both answers as lines of text."""
    question = pair.question
    image = "no image" if question.image is None else str(question.image)
    width = max(map(len, (*names, EXPECTED)))
    lines = [f"row {question.row}, {image}", f"  {question.text}", f"  {EXPECTED:{width}}    {question.expected}"]
    for name, answer in zip(names, (pair.before, pair.after), strict=True):
        lines.append(f"  {name:{width}}  {CORRECT if answer.is_correct else WRONG} {answer.text}")
    return "\n".join(map(show_line, lines))


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m finetune.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("base", metavar="BASE", help="first model: a name or a directory, usually the base model")
    add("run", metavar="RUN", help="second model: a name or a directory, usually a fine-tuning run")
    add("--data", type=Path, required=True, metavar="FILE", help="held-out data: JSON lines or a JSON list")
    add("--html", type=Path, metavar="PAGE", help="write all questions with their images and answers as an HTML page")
    add("--count", type=int, metavar="N", help="ask only the first N questions")
    help_ = "print the first N questions with their answers (default %(default)s)"
    add("--show", type=int, default=DEFAULT_SHOWN, metavar="N", help=help_)
    help_ = "how to treat rows that cannot be used (default %(default)s)"
    add("--on-bad-row", choices=("error", "skip"), default="error", help=help_)
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--dtype", choices=DTYPES, help="dtype of the weights (default: chosen by the device)")
    return vars(parser.parse_args(arguments))


def run(
    base: str,
    run: str,
    *,
    data: Path,
    html: Path | None,
    count: int | None,
    show: int,
    on_bad_row: OnBadRow,
    device: str | None,
    dtype: str | None,
    load: Callable[..., SatChatModel] = load_sat,
) -> None:
    """Answer with both models, one after the other to save memory; print the answers, and write the page."""
    if html is not None and not html.parent.is_dir():
        raise SettingError(
            f"The directory {html.parent} of the page does not exist. Create it, or choose another --html."
        )
    questions = read_questions(data, on_bad_row, count)
    names = (base, run)
    before, after = (list(ask_model(load(name, device=device, dtype=dtype), questions, name)) for name in names)
    compared = [ComparedQuestion(*pair) for pair in zip(questions, before, after, strict=True)]
    for pair in compared[:show]:
        print_text(format_compared(pair, names), end="\n\n")
    if len(compared) > show:
        print_text(f"... and {len(compared) - show} more; --show N prints more, --html PAGE writes all.\n")
    scores = [describe_score(name, answers) for name, answers in zip(names, (before, after), strict=True)]
    if html is not None:
        articles = (to_article(pair, names) for pair in compared)
        write_page(html, " → ".join(names), articles, summary=f"{SCORE_LABEL}:", scores=scores)
    print_text(SCORE_LABEL, *scores, sep="\n  ")


def main(arguments: Sequence[str] | None = None, load: Callable[..., SatChatModel] = load_sat) -> int:
    """Run the command line; return its exit code.

    Args:
        arguments: the command line; None for that of the process.
        load: loads a model.
    """
    return run_program(lambda: run(**parse_arguments(arguments), load=load))


if __name__ == "__main__":
    sys.exit(main())

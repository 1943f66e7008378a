"""Ask two models the same questions of held-out data, and show their answers side by side.

python -m finetune.compare visualglm-tiny checkpoints/RUN --data held-out/dataset.json --html page.html
"""

import argparse
import base64
import html
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from model import SatChatModel, SettingError, load_sat
from model.command_line import ArgumentParser, print_text, run_program
from model.images.preprocess import load_image
from model.loading import DTYPES

from .asking import Answer, Asked, Compared, ask_all, questions_of
from .check import find_broken
from .errors import BadRowError, DataError
from .rows import OnBadRow, read_rows, refuse_bad_rows, sift_rows

SIDE = 224  # pixels of a picture on the page, at most
PAGE = """<!DOCTYPE html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }}
article {{ display: flex; flex-wrap: wrap; gap: 1.5em; border-top: 1px solid #ccc; padding: 1.5em 0; }}
img, .none {{ width: {side}px; flex: none; }}
img {{ object-fit: contain; align-self: start; }}
.none {{ color: #666; }}
table {{ flex: 1 1 20em; border-collapse: collapse; align-self: start; }}
th {{ text-align: left; font-weight: normal; color: #666; padding: .2em 1em .2em 0; vertical-align: top; }}
td {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: .2em .5em; }}
.right {{ background: #e3f4e3; }}
.wrong {{ background: #fbe6e4; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Exactly the expected answer:</p>
<ul>
{scores}
</ul>
{body}
</body>
</html>
"""


def write_page(path: Path, compared: Sequence[Compared], names: Sequence[str], scores: Sequence[str]) -> None:
    """Write the page.

    Args:
        path: the file, which is replaced.
        compared: the questions and answers.
        names: of the two models.
        scores: what to say about how many of their answers are right.

    Raises:
        SettingError: the file cannot be written.
    """
    page = PAGE.format(
        title=html.escape(" → ".join(names)),
        side=SIDE,
        scores="\n".join(f"<li>{html.escape(score)}</li>" for score in scores),
        body="\n".join(format_article(one, names) for one in compared),
    )
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingError(f"The page {path} cannot be written: {error.strerror}. Choose another --html.") from error


def format_article(one: Compared, names: Sequence[str]) -> str:
    """Return a question as HTML: its picture, what was said before, and both answers."""
    rows = [("row", str(one.asked.row), "")]
    for turn in one.asked.earlier:
        rows += [("before", turn.question, ""), ("answered", turn.answer, "")]
    rows += [("question", one.asked.question, ""), ("expected", one.asked.expected, "")]
    rows += [(name, answer.text, verdict(answer)) for name, answer in zip(names, (one.before, one.after), strict=True)]
    lines = "\n".join(
        f'<tr><th>{html.escape(name)}</th><td class="{kind}">{html.escape(text)}</td></tr>' for name, text, kind in rows
    )
    return f"<article>\n{embed(one.asked.image)}\n<table>\n{lines}\n</table>\n</article>"


def verdict(answer: Answer) -> str:
    """Return the style of an answer."""
    return "right" if answer.right else "wrong"


def embed(path: Path | None) -> str:
    """Return a picture as part of the page, at most SIDE pixels wide and high."""
    if path is None:
        return '<p class="none">no picture</p>'
    shown = load_image(path)
    shown.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="the picture that was asked about" src="data:image/jpeg;base64,{data}">'


SHOWN = 20  # questions printed
LEAST_TOKENS = 256  # of an answer that is shown, before it is cut
RIGHT, WRONG, EXPECTED = "✓", "✗", "expected"


def read_questions(path: Path, on_bad_row: OnBadRow, count: int | None) -> list[Asked]:
    """Return the first `count` questions of a file, or all.

    Raises:
        DataError: the file cannot be read, or has bad rows that are not to be skipped.
    """
    rows = read_rows(path)
    bad: list[BadRowError] = []
    asked = list(islice(questions_of(row for _, row in sift_rows(rows, bad)), count))
    pictures: dict[Path, list[int]] = {}
    for one in asked:
        if one.image is not None:
            pictures.setdefault(one.image, []).append(one.row)
    bad += find_broken(pictures)
    refuse_bad_rows(rows, bad, on_bad_row)
    broken = {error.number for error in bad}
    usable = [one for one in asked if one.row not in broken]
    if not usable:
        raise DataError(f"No question of {path} can be asked: the pictures of the first {count} are broken.")
    return usable


def ask_model(model: SatChatModel, asked: Sequence[Asked], name: str) -> Iterator[Answer]:
    """Yield a model's answer to each question."""
    yield from tqdm(ask_all(model, asked, least=LEAST_TOKENS), desc=name, total=len(asked), leave=False, disable=None)


def describe_score(name: str, answers: Sequence[Answer]) -> str:
    """Return in words how many answers are the expected ones."""
    right = sum(answer.right for answer in answers)
    return f"{name}: {right} of {len(answers)} ({100 * right / len(answers):.1f} %)"


def show_line(text: str) -> str:
    """Return text on one line, without the control characters that would command the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def format_compared(one: Compared, names: Sequence[str]) -> str:
    """Return a question with its answers as some lines of text."""
    picture = "no picture" if one.asked.image is None else str(one.asked.image)
    width = max(map(len, (*names, EXPECTED)))
    asked = one.asked
    lines = [f"row {asked.row}, {picture}", f"  {asked.question}", f"  {EXPECTED:{width}}    {asked.expected}"]
    for name, answer in zip(names, (one.before, one.after), strict=True):
        lines.append(f"  {name:{width}}  {RIGHT if answer.right else WRONG} {answer.text}")
    return "\n".join(map(show_line, lines))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        prog="python -m finetune.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("base", metavar="BASE", help="the model before: a name or a directory")
    add("run", metavar="RUN", help="the model after: the directory of a fine-tuning run")
    add("--data", type=Path, required=True, metavar="FILE", help="JSON lines, or a JSON list")
    add("--html", type=Path, metavar="PAGE", help="write all questions with their pictures as a page for a browser")
    add("--count", type=int, metavar="N", help="ask only the first N questions")
    add("--show", type=int, default=SHOWN, metavar="N", help="print the first N (default %(default)s)")
    add("--on-bad-row", choices=("error", "skip"), default="error", help="what to do about rows that cannot be used")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="of the weights (default: what suits the device)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, load: Callable[..., SatChatModel]) -> None:
    """Ask one model after the other, so that only one is in memory, and show what they said."""
    if options.html is not None and not options.html.parent.is_dir():
        raise SettingError(f"There is no folder {options.html.parent} for the page. Make it, or choose another --html.")
    asked = read_questions(options.data, options.on_bad_row, options.count)
    names = (options.base, options.run)
    before, after = (
        list(ask_model(load(name, device=options.device, dtype=options.dtype), asked, name)) for name in names
    )
    compared = [Compared(*one) for one in zip(asked, before, after, strict=True)]
    for one in compared[: options.show]:
        print_text(format_compared(one, names), end="\n\n")
    if len(compared) > options.show:
        print_text(f"... and {len(compared) - options.show} more; --show prints more, --html writes all.\n")
    scores = [describe_score(name, answers) for name, answers in zip(names, (before, after), strict=True)]
    if options.html is not None:
        write_page(options.html, compared, names, scores)
    print_text("Exactly the expected answer", *scores, sep="\n  ")


def main(arguments: Sequence[str] | None = None, load: Callable[..., SatChatModel] = load_sat) -> int:
    """Compare the models that the command line names; `load` loads them."""
    return run_program(lambda: run(parse_arguments(arguments), load))


if __name__ == "__main__":
    sys.exit(main())

"""What is in a file of training data, and what is wrong with it.

python -m finetune.data check dataset.json
python -m finetune.data check dataset.jsonl --from_pretrained visualglm-6b --max-length 512
"""

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from model import load_tokenizer
from model.checkpoint import open_checkpoint
from model.command_line import FAILURE, SUCCESS, ArgumentParser, console_command, print_text, run_program
from model.errors import ImageError
from model.images.preprocess import load_image

from .encoding import DEFAULT_MAX_LENGTH, NO_LOSS, Example, TurnEncoder
from .errors import BadRowError
from .formats import Row
from .rows import Rows, describe_unread, read_rows, sift_rows

LISTED = 20  # bad rows that are printed
AT_HAND = "visualglm-tiny"  # needs no download; its tokens are shorter than those of visualglm-6b


@dataclass
class Findings:
    """What a file holds.

    Attributes:
        rows: how many.
        bad: the rows that cannot be used.
        pictures: of each picture the numbers of the rows that have it.
        with_picture, several_turns: usable rows that have one, and that have more than one answer.
        languages: answers of each language.
        prompts, answers: tokens of each prompt and of each answer, as far as they fit.
        left_out: of each example that is too long, the number of its row and how many tokens do not fit.
        unread: of each key that is not read, how many usable rows have it.
    """

    rows: int
    bad: list[BadRowError] = field(default_factory=list)
    pictures: dict[Path, list[int]] = field(default_factory=dict)
    with_picture: int = 0
    several_turns: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    prompts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    left_out: list[tuple[int, int]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    def add_row(self, row: Row) -> None:
        """Count a row."""
        if row.image is not None:
            self.pictures.setdefault(row.image, []).append(row.number)
        self.with_picture += row.image is not None
        self.several_turns += len(row.turns) > 1
        self.unread.update(row.unread)

    def add_example(self, example: Example, language: str) -> None:
        """Count an answer."""
        learned = sum(label != NO_LOSS for label in example.labels)
        self.prompts.append(len(example.input_ids) - learned)
        self.answers.append(learned)
        self.languages[language] = self.languages.get(language, 0) + 1
        if example.left_out:
            self.left_out.append((example.row, example.left_out))


def look_through(rows: Rows, encoder: TurnEncoder) -> Findings:
    """Read and encode every row, and decode every picture once."""
    findings = Findings(len(rows))
    for _, row in tqdm(sift_rows(rows, findings.bad), desc="Rows", total=len(rows), leave=False, disable=None):
        findings.add_row(row)
        for turn in range(row.learned_from, len(row.turns)):
            findings.add_example(encoder.encode(row, turn), row.language_of(turn).code)
    findings.bad += find_broken(findings.pictures)
    findings.bad.sort(key=lambda error: error.number)
    return findings


def find_broken(pictures: Mapping[Path, Sequence[int]]) -> list[BadRowError]:
    """Decode pictures, and return what is wrong with the rows of those that cannot be."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets others run while it decodes
        reasons = pool.map(describe_damage, pictures)
        shown = tqdm(reasons, desc="Pictures", total=len(pictures), leave=False, disable=None)
        return [
            BadRowError(number, reason)
            for numbers, reason in zip(pictures.values(), shown, strict=True)
            if reason is not None
            for number in numbers
        ]


def describe_damage(path: Path) -> str | None:
    """Return what is wrong with a picture file; None if nothing is."""
    try:
        load_image(path)
    except ImageError as error:
        return str(error)
    return None


def describe_lengths(lengths: Sequence[int]) -> str:
    """Return the spread of some lengths in words."""
    ordered = sorted(lengths)
    most = ordered[int(0.95 * (len(ordered) - 1))]
    return f"{ordered[0]} to {ordered[-1]}, half up to {ordered[(len(ordered) - 1) // 2]}, 95 % up to {most}"


def summarize(findings: Findings, path: Path, name: str, max_length: int) -> str:
    """Return what there is to say about a file, a line for each thing."""
    usable = findings.rows - len(findings.bad)
    lines = [f"{path}: {findings.rows} rows, {usable} can be used; lengths in tokens of {name}"]
    if findings.answers:
        spoken = ", ".join(f"{count} {code}" for code, count in sorted(findings.languages.items()))
        sizes = list(map(sum, zip(findings.prompts, findings.answers, strict=True)))
        lines += [
            f"answers    {len(findings.answers)} ({spoken}); {findings.several_turns} rows have several turns",
            f"pictures   {len(findings.pictures)} in {findings.with_picture} rows",
            f"prompts    {describe_lengths(findings.prompts)}",
            f"answers    {describe_lengths(findings.answers)}; {sum(findings.answers)} in all",
            f"together   {describe_lengths(sizes)}",
        ]
    if findings.unread:
        lines.append(f"not read   {describe_unread(findings.unread)}")
    if findings.left_out:
        number, most = max(findings.left_out, key=lambda found: found[1])
        lines.append(
            f"too long   {len(findings.left_out)} answers do not fit into {max_length} tokens with all that was said "
            f"before; the worst is in row {number}, which loses {most}. Raise --max-length to keep all."
        )
    if findings.bad:
        lines.append(f"bad rows   {len(findings.bad)}")
        lines += [f"  {error}" for error in findings.bad[:LISTED]]
    if len(findings.bad) > LISTED:
        lines.append(f"  ... and {len(findings.bad) - LISTED} more")
    return "\n".join(lines)


def make_encoder(name: str, max_length: int) -> TurnEncoder:
    """Return the encoder for the model called `name`, without its weights."""
    checkpoint = open_checkpoint(name)
    return TurnEncoder(load_tokenizer(checkpoint.path), checkpoint.config["image_length"], max_length)


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line."""
    called = console_command()
    parser = ArgumentParser(
        prog="python -m finetune.data check" if called else "python -m finetune.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not called:  # `visualglm check-data` has it in its name
        parser.add_argument("command", choices=("check",))
    parser.add_argument("file", type=Path, help="JSON lines, or a JSON list")
    parser.add_argument("--from_pretrained", default=AT_HAND, help="whose tokens are counted (default %(default)s)")
    parser.add_argument(
        "--max-length", type=int, default=DEFAULT_MAX_LENGTH, help="tokens of prompt and answer (default %(default)s)"
    )
    options = vars(parser.parse_args(arguments))
    options.pop("command", None)  # there is only one
    return options


def run(file: Path, from_pretrained: str, max_length: int) -> int:
    """Print the summary of a file; return `FAILURE` if there are rows that cannot be used."""
    rows = read_rows(file)  # before a model is looked for: the path may be misspelled
    findings = look_through(rows, make_encoder(from_pretrained, max_length))
    print_text(summarize(findings, file, from_pretrained, max_length))
    return FAILURE if findings.bad else SUCCESS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_program(lambda: run(**parse_arguments(arguments)))

"""Print statistics and errors of a file of training data.

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

from .conversion import WRITERS, convert_rows
from .encoding import DEFAULT_MAX_LENGTH, IGNORE_INDEX, Example, TurnEncoder
from .errors import BadRowError
from .formats import Row
from .rows import Rows, describe_ignored_keys, iterate_usable_rows, read_rows

MAX_LISTED = 20  # bad rows to print
DEFAULT_MODEL_NAME = "visualglm-tiny"  # needs no download; its tokens are shorter than those of visualglm-6b


@dataclass
class Findings:
    """Statistics and errors of a file.

    Attributes:
        rows: number of rows.
        bad_rows: errors of the rows that cannot be used.
        images: for each image the numbers of its rows.
        with_image: number of usable rows with an image.
        multi_turn: number of usable rows with several turns.
        languages: number of answers of each language.
        prompt_lengths, answer_lengths: tokens of each prompt and of each answer, after truncation.
        truncated: for each example that is too long the number of its row and the number of tokens that do not fit.
        ignored_keys: for each ignored key the number of usable rows that have it.
    """

    rows: int
    bad_rows: list[BadRowError] = field(default_factory=list)
    images: dict[Path, list[int]] = field(default_factory=dict)
    with_image: int = 0
    multi_turn: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    prompt_lengths: list[int] = field(default_factory=list)
    answer_lengths: list[int] = field(default_factory=list)
    truncated: list[tuple[int, int]] = field(default_factory=list)
    ignored_keys: Counter[str] = field(default_factory=Counter)

    def add_row(self, row: Row) -> None:
        """Add a row to the statistics."""
        if row.image is not None:
            self.images.setdefault(row.image, []).append(row.number)
        self.with_image += row.image is not None
        self.multi_turn += len(row.turns) > 1
        self.ignored_keys.update(row.ignored_keys)

    def add_example(self, example: Example, language: str) -> None:
        """Add an example, which is one answer, to the statistics."""
        trained = sum(label != IGNORE_INDEX for label in example.labels)
        self.prompt_lengths.append(len(example.input_ids) - trained)
        self.answer_lengths.append(trained)
        self.languages[language] = self.languages.get(language, 0) + 1
        if example.num_truncated:
            self.truncated.append((example.row, example.num_truncated))


def scan_rows(rows: Rows, encoder: TurnEncoder) -> Findings:
    """Read and encode every row, and decode every image once."""
    findings = Findings(len(rows))
    for _, row in tqdm(
        iterate_usable_rows(rows, findings.bad_rows), desc="Rows", total=len(rows), leave=False, disable=None
    ):
        findings.add_row(row)
        for turn in range(row.first_trained_turn, len(row.turns)):
            findings.add_example(encoder.encode(row, turn), row.language_of(turn).code)
    findings.bad_rows += find_unreadable_images(findings.images)
    findings.bad_rows.sort(key=lambda error: error.number)
    return findings


def find_unreadable_images(images: Mapping[Path, Sequence[int]]) -> list[BadRowError]:
    """Decode images, and return an error for each row of an image that cannot be decoded.

    Args:
        images: for each image the numbers of its rows.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
        reasons = pool.map(describe_image_error, images)
        shown = tqdm(reasons, desc="Images", total=len(images), leave=False, disable=None)
        return [
            BadRowError(number, reason)
            for numbers, reason in zip(images.values(), shown, strict=True)
            if reason is not None
            for number in numbers
        ]


def describe_image_error(path: Path) -> str | None:
    """Return the error of an image file; None if it can be decoded."""
    try:
        load_image(path)
    except ImageError as error:
        return str(error)
    return None


def describe_lengths(lengths: Sequence[int]) -> str:
    """Return minimum, maximum, median and 95th percentile of some lengths as text."""
    ordered = sorted(lengths)
    percentile_95 = ordered[int(0.95 * (len(ordered) - 1))]
    return f"{ordered[0]} to {ordered[-1]}, half up to {ordered[(len(ordered) - 1) // 2]}, 95 % up to {percentile_95}"


def summarize(findings: Findings, path: Path, name: str, max_length: int) -> str:
    """Return the statistics and errors of a file as lines of text."""
    usable = findings.rows - len(findings.bad_rows)
    lines = [f"{path}: {findings.rows} rows, {usable} can be used; lengths in tokens of {name}"]
    if findings.answer_lengths:
        languages = ", ".join(f"{count} {code}" for code, count in sorted(findings.languages.items()))
        totals = list(map(sum, zip(findings.prompt_lengths, findings.answer_lengths, strict=True)))
        lines += [
            f"answers    {len(findings.answer_lengths)} ({languages}); {findings.multi_turn} rows have several turns",
            f"images     {len(findings.images)} in {findings.with_image} rows",
            f"prompts    {describe_lengths(findings.prompt_lengths)}",
            f"answers    {describe_lengths(findings.answer_lengths)}; {sum(findings.answer_lengths)} in all",
            f"together   {describe_lengths(totals)}",
        ]
    if findings.ignored_keys:
        lines.append(f"ignored    {describe_ignored_keys(findings.ignored_keys)}")
    if findings.truncated:
        number, count = max(findings.truncated, key=lambda found: found[1])
        lines.append(
            f"too long   {len(findings.truncated)} answers do not fit into {max_length} tokens with their context; "
            f"the longest is in row {number}, which loses {count} tokens. Raise --max-length to keep all."
        )
    if findings.bad_rows:
        lines.append(f"bad rows   {len(findings.bad_rows)}")
        lines += [f"  {error}" for error in findings.bad_rows[:MAX_LISTED]]
    if len(findings.bad_rows) > MAX_LISTED:
        lines.append(f"  ... and {len(findings.bad_rows) - MAX_LISTED} more")
    return "\n".join(lines)


def make_encoder(name: str, max_length: int) -> TurnEncoder:
    """Return the encoder of the model `name`, without loading its weights."""
    checkpoint = open_checkpoint(name)
    return TurnEncoder(load_tokenizer(checkpoint.path), checkpoint.config["image_length"], max_length)


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line."""
    called = console_command()
    parser = ArgumentParser(
        prog="python -m finetune.data check" if called else "python -m finetune.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not called:  # `visualglm check-data` needs no subcommand
        parser.add_argument("command", choices=("check", "convert"), help="convert: write another trainer's format")
        parser.add_argument("--to", choices=sorted(WRITERS), help="format of the new file, with convert")
        parser.add_argument("--out", type=Path, metavar="FILE", help="file to write, with convert")
    parser.add_argument("file", type=Path, help="JSON lines, or a JSON list")
    parser.add_argument(
        "--from_pretrained",
        default=DEFAULT_MODEL_NAME,
        help="model whose tokenizer counts the tokens (default %(default)s)",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        default=DEFAULT_MAX_LENGTH,
        help="maximum number of tokens of prompt and answer (default %(default)s)",
    )
    options = vars(parser.parse_args(arguments))
    is_conversion = options.pop("command", "check") == "convert"
    if is_conversion != bool(options.get("to")) or is_conversion != bool(options.get("out")):
        parser.error("convert needs --to and --out, which check does not have")
    return options


def run(file: Path, from_pretrained: str, max_length: int, to: str | None = None, out: Path | None = None) -> int:
    """Print the summary of a file, or convert it; return `FAILURE` if there are rows that cannot be used."""
    if to and out:
        print_text(f"Wrote {convert_rows(file, out, to)} rows to {out}.")
        return SUCCESS
    rows = read_rows(file)  # read before the model is opened, so that a misspelled path is reported at once
    findings = scan_rows(rows, make_encoder(from_pretrained, max_length))
    print_text(summarize(findings, file, from_pretrained, max_length))
    return FAILURE if findings.bad_rows else SUCCESS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_program(lambda: run(**parse_arguments(arguments)))

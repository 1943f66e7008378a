"""The results of an evaluation as a table for people and as JSON for programs."""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tiny.scoring.results import Result, Score, count_things, score, score_table
from tiny.words.sentences import Language

CELL = 36  # characters of a column
LANGUAGES: tuple[Language, ...] = ("zh", "en")


def format_percent(percent: float | None) -> str:
    """97.5 %, or - for none"""
    return "-" if percent is None else f"{percent:.1f} %"


def format_score(value: Score) -> str:
    """Return the share of right answers, its interval, and the share with swapped pictures."""
    if value.low is None or value.high is None:
        return f"{'-':>{CELL}}"
    between = f"[{value.low:5.1f}, {value.high:5.1f}]"
    return f"{format_percent(value.percent):>10} {between} {format_percent(value.swapped):>9}".rjust(CELL)


def format_table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table: the score of each kind and language, and how the descriptions named the things.

    A kind whose score hardly falls with swapped pictures, in one of the languages, ends with the words "not looking".
    """
    table = score_table(results)
    width = max(len(kind) for kind in ("all", *table)) + 1
    yield f"{'kind':<{width}}" + "".join(f"{f'{language} [95 % interval]   swapped':>{CELL}}" for language in LANGUAGES)
    for kind, row in table.items():
        yield f"{kind:<{width}}" + "".join(format_score(row[language]) for language in LANGUAGES) + _mark(row)
    columns = [score([result for result in results if result.question.language == code]) for code in LANGUAGES]
    yield f"{'all':<{width}}" + "".join(map(format_score, columns))
    yield from _format_things(results)


def _mark(row: dict[Language, Score]) -> str:
    blind = [language for language in LANGUAGES if row[language].looking is False]
    return f"   not looking ({', '.join(blind)})" if blind else ""


def _format_things(results: list[Result]) -> Iterator[str]:
    totals = count_things(results)
    if totals:
        yield "things in descriptions: " + "; ".join(
            f"{language} {total.right} named rightly, {total.wrong} wrongly, {total.missing} left out"
            for language, total in totals.items()
        )


def format_overall(results: list[Result]) -> str:
    """Return the line that ends the output: overall 96.4 %"""
    return f"overall {score(results).percent or 0:.1f} %"


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what the numbers may depend on: device, dtype, versions, threads."""
    return {
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, settings: dict[str, Any], machine: dict[str, Any], results: list[Result]) -> None:
    """Write everything that is known of an evaluation.

    Args:
        path: the file, which is replaced.
        settings: of the command.
        machine: from `describe_machine`.
        results: in the order in which the questions were asked.
    """
    content = {
        "settings": settings,
        "machine": machine,
        "overall": asdict(score(results)),
        "languages": {code: asdict(score([r for r in results if r.question.language == code])) for code in LANGUAGES},
        "kinds": {
            kind: {language: asdict(value) for language, value in row.items()}
            for kind, row in score_table(results).items()
        },
        "things": {language: asdict(total) for language, total in count_things(results).items()},
        "questions": [_to_json(result) for result in results],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", errors="replace")


def _to_json(result: Result) -> dict[str, Any]:
    question = result.question
    return {
        "kind": question.kind,
        "language": question.language,
        "history": question.history,
        "question": question.text,
        "expected": question.expected,
        "answer": result.answer,
        "right": result.right,
        "swapped_answer": result.swapped_answer,
        "right_when_swapped": result.right_when_swapped,
        "picture": question.picture.source if question.picture else None,
        "swapped_picture": question.swapped.source if question.swapped else None,
    }

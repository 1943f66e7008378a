"""The report of an evaluation by kind and language: a table and JSON."""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tiny.evaluation.generated_dataset import RenderedScene
from tiny.evaluation.results import Result, Score, count_things, score, score_table
from tiny.words.sentences import LANGUAGES, Language
from visualglm.evaluation.data import ImageFile, ImageReference

COLUMN_WIDTH = 36  # characters


def format_percent(percent: float | None) -> str:
    """Format a percentage as 97.5 %, None as -."""
    return "-" if percent is None else f"{percent:.1f} %"


def format_score(value: Score) -> str:
    """Format accuracy, confidence interval, and accuracy with swapped images."""
    if value.low is None or value.high is None:
        return f"{'-':>{COLUMN_WIDTH}}"
    between = f"[{value.low:5.1f}, {value.high:5.1f}]"
    return f"{format_percent(value.percent):>10} {between} {format_percent(value.swapped):>9}".rjust(COLUMN_WIDTH)


def format_table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table: the score of each kind and language, then the counts of things in descriptions.

    A row ends with "not looking" if its accuracy in one of the languages hardly drops with swapped images.
    """
    table = score_table(results)
    width = max(len(kind) for kind in ("all", *table)) + 1
    yield f"{'kind':<{width}}" + "".join(
        f"{f'{language} [95 % interval]   swapped':>{COLUMN_WIDTH}}" for language in LANGUAGES
    )
    for kind, row in table.items():
        yield (
            f"{kind:<{width}}" + "".join(format_score(row[language]) for language in LANGUAGES) + _flag_ungrounded(row)
        )
    columns = [score([result for result in results if result.question.language == code]) for code in LANGUAGES]
    yield f"{'all':<{width}}" + "".join(map(format_score, columns))
    yield from _format_things(results)


def _flag_ungrounded(row: dict[Language, Score]) -> str:
    blind = [language for language in LANGUAGES if row[language].looking is False]
    return f"   not looking ({', '.join(blind)})" if blind else ""


def _format_things(results: list[Result]) -> Iterator[str]:
    totals = count_things(results)
    if totals:
        yield "things in descriptions: " + "; ".join(
            f"{language} {total.right} named correctly, {total.wrong} wrongly, {total.missing} missing"
            for language, total in totals.items()
        )


def format_overall(results: list[Result]) -> str:
    """Return the last line of the output: overall 96.4 %"""
    return f"overall {score(results).percent or 0:.1f} %"


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return machine facts that results may depend on: device, dtype, versions, threads."""
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
    """Write all results of an evaluation as JSON.

    Args:
        path: output file, which is overwritten.
        settings: the command's settings.
        machine: from `describe_machine`.
        results: in the order of the questions.
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
        "expected": question.answers,
        "answer": result.answer,
        "right": result.correct,
        "swapped_answer": result.swapped_answer,
        "right_when_swapped": result.correct_when_swapped,
        "picture": _describe_image(question.image),
        "swapped_picture": _describe_image(question.swapped_image),
    }


def _describe_image(image: ImageReference | None) -> Any:
    """Return a drawn scene as JSON values, the path of a file, or the name of another image; None for none."""
    if isinstance(image, RenderedScene):
        return json.loads(image.scene.to_json())
    if isinstance(image, ImageFile):
        return str(image.path)
    return image and image.name

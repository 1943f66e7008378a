"""Write a file of training data for another trainer: LLaMA-Factory, ms-swift or TRL.

    python -m finetune.data convert dataset.json --to trl --out trl.jsonl

`llama-factory` has `conversations` (sharegpt), `alpaca` has `instruction` and `output`, `ms-swift` has `messages`, and
`trl` has `prompt` and `completion`, with a row for each answer.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model.errors import SettingError
from model.file_writing import write_text_atomically

from .errors import BadRowError
from .formats import Row
from .rows import iterate_usable_rows, raise_for_bad_rows, read_rows

IMAGE_TAG = "<image>"
Writer = Callable[[Row, list[str]], Iterator[dict[str, Any]]]


def tagged_texts(row: Row) -> list[str]:
    """Return the questions and answers of a row in turn; a tag in the first question marks the image."""
    texts = [text for turn in row.turns for text in (turn.question, turn.answer)]
    return [IMAGE_TAG * (row.image is not None) + texts[0], *texts[1:]]


def to_llama_factory(row: Row, images: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a row in LLaMA-Factory's format sharegpt."""
    texts = enumerate(tagged_texts(row))
    yield {"conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in texts], "images": images}


def to_alpaca(row: Row, images: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a row in LLaMA-Factory's format alpaca."""
    texts = tagged_texts(row)
    history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    yield {"instruction": texts[-2], "input": "", "output": texts[-1], "history": history, "images": images}


def to_swift(row: Row, images: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a row in ms-swift's format."""
    yield {"messages": to_messages(tagged_texts(row)), "images": images}


def to_trl(row: Row, images: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a row in TRL's format for each answer that is trained on; TRL puts the image into the first question."""
    messages = to_messages([text for turn in row.turns for text in (turn.question, turn.answer)])
    for turn in range(row.first_trained_turn, len(row.turns)):
        yield {
            "prompt": messages[: 2 * turn + 1],
            "completion": messages[2 * turn + 1 : 2 * turn + 2],
            "images": images,
        }


WRITERS: dict[str, Writer] = {
    "llama-factory": to_llama_factory,
    "alpaca": to_alpaca,
    "ms-swift": to_swift,
    "trl": to_trl,
}


def to_messages(texts: list[str]) -> list[dict[str, str]]:
    """Return questions and answers as messages."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def convert_rows(source: Path, target: Path, to: str) -> int:
    """Write the rows of a file in another format; return the number of rows written.

    Image paths in the new file are relative to its folder.

    Raises:
        DataError: the file cannot be read, or has bad rows.
        SettingError: the new file exists.
    """
    if target.exists():
        raise SettingError(f"{target} exists. Give --out another name.")
    rows, bad, written = read_rows(source), list[BadRowError](), []
    for _, row in iterate_usable_rows(rows, bad):
        images = [] if row.image is None else [os.path.relpath(row.image, target.parent)]
        written += [json.dumps(one, ensure_ascii=False) for one in WRITERS[to](row, images)]
    raise_for_bad_rows(rows, bad, "error")
    write_text_atomically(target, "\n".join(written) + "\n")
    return len(written)

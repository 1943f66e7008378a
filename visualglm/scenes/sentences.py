"""Reads the sentence files of visualglm/scenes/wordings."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

Language = Literal["zh", "en"]

FOLDER = Path(__file__).with_name("wordings")
LANGUAGES: tuple[Language, ...] = get_args(Language)


@cache
def read_sentences(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read a file of a folder of sentences, such as "names" or "zh/answers"."""
    return tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))


def capitalize(text: str) -> str:
    """Return the text with its first letter capitalized; Chinese is unchanged."""
    return text[0].upper() + text[1:]

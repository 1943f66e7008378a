"""Error messages in the language of a program's interface."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from model import CHINESE, Language, VisualGLMError

TABLE = Path(__file__).with_name("error_texts.toml")
FIELD = re.compile(r"\{(\w+)\}")
MAX_LENGTH = 1000  # characters of a message; a longer one is too expensive to compare with the templates


class Translation(NamedTuple):
    """A template of an English message, and its Chinese counterpart.

    Attributes:
        english: pattern with a named group for each part that changes.
        chinese: text with the names of the groups in braces.
    """

    english: re.Pattern[str]
    chinese: str


def describe_error(error: VisualGLMError, language: Language) -> str:
    """Return an error's message in `language`; in English if it has no translation."""
    return translate_message(str(error)) if language is CHINESE else str(error)


def translate_message(text: str) -> str:
    """Translate an English message, or each line of it, to Chinese; keep what has no translation."""
    translated = find_translation(text)
    if translated is not None:
        return translated
    return "\n".join(find_translation(line) or line for line in text.split("\n"))


def find_translation(text: str) -> str | None:
    """Return the Chinese form of a message or of a part of one; None if no template fits."""
    if len(text) > MAX_LENGTH:
        return None
    for translation in read_translations():
        if found := translation.english.fullmatch(text):
            return fill_template(translation.chinese, found.groupdict())
    return None


def fill_template(template: str, parts: Mapping[str, str]) -> str:
    """Fill a Chinese template with the parts of an English message, which are translated where possible."""
    return FIELD.sub(lambda field: find_translation(parts[field[1]]) or parts[field[1]], template)


@cache
def read_translations() -> tuple[Translation, ...]:
    """Read the table of translations, in the order in which they are tried."""
    sections = tomllib.loads(TABLE.read_text(encoding="utf-8")).values()
    return tuple(Translation(compile_template(english), chinese) for pairs in sections for english, chinese in pairs)


def compile_template(template: str) -> re.Pattern[str]:
    """Compile an English template to a pattern with a named group for each word in braces."""
    texts = FIELD.split(template)  # texts and names of fields in turn
    parts = [f"(?P<{text}>.+?)" if number % 2 else re.escape(text) for number, text in enumerate(texts)]
    return re.compile("".join(parts))

"""The sentence files have the same entries in both languages."""

import re

import pytest

from tiny.grading.mentions import expression
from tiny.words.sentences import FOLDER, LANGUAGES, Language, read_sentences


@pytest.mark.parametrize("name", ["comparisons", "everyday", "follow_ups", "small_talk"])
def test_both_languages_have_the_same_entries(name: str) -> None:
    zh, en = (read_sentences(f"{language}/{name}") for language in LANGUAGES)
    assert set(zh) == set(en)


def test_both_languages_have_the_same_files() -> None:
    zh, en = ({path.name for path in (FOLDER / language).iterdir()} for language in LANGUAGES)
    assert zh == en


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_expression_is_one(language: Language) -> None:
    for key, value in read_sentences(f"{language}/grading").items():
        if isinstance(value, str):
            assert expression(language, key)
        for pattern in value.values() if isinstance(value, dict) else ():
            assert re.compile(pattern)

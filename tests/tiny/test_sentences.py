"""The sentence files have the same entries in both languages."""

import re
from string import Formatter

import pytest

from tiny.grading.mentions import expression
from tiny.scenes import COLORS, KINDS, REGIONS, SIZES
from tiny.words.sentences import FOLDER, LANGUAGES, Language, read_sentences
from tiny.words.vocabulary import NAMES, NOUNS


@pytest.mark.parametrize("name", ["answers", "comparisons", "everyday", "follow_ups", "small_talk"])
def test_both_languages_have_the_same_entries(name: str) -> None:
    zh, en = (read_sentences(f"{language}/{name}") for language in LANGUAGES)
    assert set(zh) == set(en)


def test_both_languages_have_the_same_files() -> None:
    zh, en = ({path.name for path in (FOLDER / language).iterdir()} for language in LANGUAGES)
    assert zh == en


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_answer_has_no_field_that_the_other_language_lacks(language: Language) -> None:
    fields = {"be"}  # only English verbs mark the plural
    for key, template in read_sentences(f"{language}/answers").items():
        other = read_sentences(f"{'en' if language == 'zh' else 'zh'}/answers")[key]
        mine, theirs = ({field for _, field, _, _ in Formatter().parse(text) if field} for text in (template, other))
        assert mine - fields == theirs - fields, key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_expression_is_one(language: Language) -> None:
    for key, value in read_sentences(f"{language}/grading").items():
        if isinstance(value, str):
            assert expression(language, key)
        for pattern in value.values() if isinstance(value, dict) else ():
            assert re.compile(pattern)


def test_everything_that_is_drawn_has_its_names() -> None:
    assert set(NOUNS) == set(KINDS)
    for group, keys in (("colours", COLORS), ("regions", REGIONS), ("sizes", SIZES)):
        assert list(NAMES[group]) == list(keys)
        assert all(set(NAMES[group][key]) == set(LANGUAGES) for key in keys)

"""Everything that is drawn has names, and answers state the same in both languages."""

from string import Formatter

import pytest

from visualglm.scenes import COLORS, KINDS, REGIONS, SIZES
from visualglm.scenes.sentences import LANGUAGES, Language, read_sentences
from visualglm.scenes.vocabulary import NAMES, NOUNS


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_answer_has_no_field_that_the_other_language_lacks(language: Language) -> None:
    fields = {"be"}  # only English verbs mark the plural
    for key, template in read_sentences(f"{language}/answers").items():
        other = read_sentences(f"{'en' if language == 'zh' else 'zh'}/answers")[key]
        mine, theirs = ({field for _, field, _, _ in Formatter().parse(text) if field} for text in (template, other))
        assert mine - fields == theirs - fields, key


def test_everything_that_is_drawn_has_its_names() -> None:
    assert set(NOUNS) == set(KINDS)
    for group, keys in (("colours", COLORS), ("regions", REGIONS), ("sizes", SIZES)):
        assert list(NAMES[group]) == list(keys)
        assert all(set(NAMES[group][key]) == set(LANGUAGES) for key in keys)

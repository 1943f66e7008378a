"""Rehearsal questions are complete sentences, varied, and mostly about things in the description."""

from random import Random

import pytest

from finetune.rehearsal import TEMPLATES, draw_follow_up, draw_no_image, draw_question, fill, plural_of, with_article
from model import CHINESE, ENGLISH
from model.prompt import Language, is_chinese

LANGUAGES = pytest.mark.parametrize("language", [CHINESE, ENGLISH])


@LANGUAGES
def test_every_template_can_be_filled(language: Language) -> None:
    words = TEMPLATES[language]
    for template in (*sum(words.templates, ()), *words.follow_ups, *words.no_image):
        question = fill(Random(0), words, template, "")
        assert not set("{}") & set(question)
        assert question[-1] in "？。！?.!"
        assert is_chinese(question) is (language is CHINESE)


@LANGUAGES
def test_questions_are_varied_and_determined_by_the_seed(language: Language) -> None:
    first, second = ([draw_question(random, language, "") for _ in range(300)] for random in (Random(7), Random(7)))
    assert first == second
    assert len(set(first)) > 150
    assert len({draw_follow_up(random, language, "") for random in map(Random, range(30))}) > 5
    assert len({draw_no_image(random, language) for random in map(Random, range(30))}) > 5


@pytest.mark.parametrize(
    ("language", "said", "thing"), [(CHINESE, "一条红色的鱼。", "鱼"), (ENGLISH, "A red fish.", "fish")]
)
def test_questions_are_about_things_in_the_description(language: Language, said: str, thing: str) -> None:
    random = Random(0)
    template = "{thing}"
    asked = [fill(random, TEMPLATES[language], template, said) for _ in range(400)]
    assert 0.6 < sum(thing in question for question in asked) / 400 < 0.9


def test_english_has_articles_and_plurals() -> None:
    assert [with_article(thing) for thing in ("ball", "orange ball", "球")] == ["a ball", "an orange ball", "球"]
    assert plural_of(TEMPLATES[ENGLISH], "red box") == "red boxes"
    assert plural_of(TEMPLATES[CHINESE], "红色的球") == "红色的球"
    assert all(len(words.things) == len(words.plurals) for words in TEMPLATES.values())

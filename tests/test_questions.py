import re
from dataclasses import replace

import numpy as np
import pytest

from tiny.questions import QUESTION_KINDS, Example, ask, askable, corpus, is_right
from tiny.scenes import COLOURS, KINDS, Scene, Thing, sample_scene
from tiny.smalltalk import WORLD, topics_of
from tiny.vocabulary import NOUNS, name_count, name_one
from tiny.wordings import EN, ZH, wordings_of

LANGUAGES = ("zh", "en")
PICTURE_KINDS = tuple(kind for kind in QUESTION_KINDS if kind != "text")
BACKGROUND_WORDS = {
    "zh": "天空|草地|草坪|海|沙漠|雪|夜|砖|墙|房间|室内|背景|地板",
    "en": r"\b(sky|grass|lawn|sea|ocean|desert|sand|snow|night|brick|wall|room|background|floor)\b",
}
PAIR = Scene(
    "snow",
    (Thing("ball", "red", "small", 0.2, 0.2), Thing("car", "blue", "large", 0.8, 0.5)),
    7,
)
THREE_BALLS = Scene(
    "room",
    tuple(Thing("ball", c, "small", x, 0.5) for c, x in (("red", 0.2), ("green", 0.5), ("black", 0.8))),
    7,
)
ALONE = Scene("night", (Thing("box", "orange", "small", 0.5, 0.8),), 7)


def examples(language: str, count: int, seed: int = 0, kind: str | None = None) -> list[tuple[Scene, Example]]:
    rng = np.random.default_rng(seed)
    drawn = []
    while len(drawn) < count:
        scene = sample_scene(rng, 5)
        if kind is None or kind in askable(scene):
            drawn.append((scene, ask(scene, rng, language, kind)))
    return drawn


def find(scene: Scene | None, language: str, kind: str, /, **facts: object) -> Example:
    """The first example of that kind with these facts."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        example = ask(scene, rng, language, kind)
        if all(getattr(example.facts, name) == value for name, value in facts.items()):
            return example
    raise AssertionError(f"no {kind} example with {facts}")


def texts_of(example: Example) -> list[str]:
    return [*(text for exchange in example.history for text in exchange), example.question, example.answer]


def test_same_rng_same_example() -> None:
    assert examples("zh", 30) == examples("zh", 30)
    assert examples("zh", 30) != examples("zh", 30, seed=1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_hundred_examples_are_sound(language: str) -> None:
    kinds = set()
    for _, example in examples(language, 500):
        kinds.add(example.kind)
        assert example.language == language
        assert is_right(example, example.answer), example
        assert not is_right(example, "")
        for text in texts_of(example):
            assert not re.search(BACKGROUND_WORDS[language], text.lower()), text
            assert not re.search(r"[{}]|None|  ", text), text
            assert text == text.strip()
            assert bool(re.search(r"[\u4e00-\u9fff]", text)) == (language == "zh"), text
    assert kinds == set(QUESTION_KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_do_not_depend_on_the_background(language: str) -> None:
    for (scene, example), seed in zip(examples(language, 50), range(50), strict=True):
        other = replace(scene, background="sea", seed=1)
        first, second = (ask(s, np.random.default_rng(seed), language, example.kind) for s in (scene, other))
        assert first == second


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_answers_to_other_facts_are_wrong(kind: str, language: str) -> None:
    drawn = [example for _, example in examples(language, 40, kind=kind)]
    for example in drawn:
        for other in drawn:
            differs = other.facts.value != example.facts.value
            if example.facts.aspect == "things":
                differs = {t[:2] for t in other.facts.things} != {t[:2] for t in example.facts.things}
            if differs and other.facts.aspect == example.facts.aspect:
                assert not is_right(example, other.answer), (example, other.answer)


@pytest.mark.parametrize("language", LANGUAGES)
def test_colour_is_asked_only_of_a_single_thing(language: str) -> None:
    assert "colour" not in askable(THREE_BALLS)
    with pytest.raises(ValueError, match="colour"):
        ask(THREE_BALLS, np.random.default_rng(0), language, "colour")
    for scene, example in examples(language, 100, kind="colour"):
        assert [thing.kind for thing in scene.things].count(example.facts.kind) == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scene", [PAIR, THREE_BALLS, ALONE])
def test_where_has_one_answer(scene: Scene, language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        facts = ask(scene, rng, language, "where").facts
        fitting = [t for t in scene.things if t.kind == facts.kind and facts.colour in (None, t.colour)]
        assert len(fitting) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_absent_things_are_absent(language: str) -> None:
    for scene, example in examples(language, 200, kind="absent"):
        facts = example.facts
        assert not any(t.kind == facts.kind and facts.colour in (None, t.colour) for t in scene.things)


@pytest.mark.parametrize("language", LANGUAGES)
def test_existence_is_true(language: str) -> None:
    answers = set()
    for scene, example in examples(language, 200, kind="exists"):
        facts = example.facts
        there = any(t.kind == facts.kind and facts.colour in (None, t.colour) for t in scene.things)
        assert facts.value is there
        answers.add(there)
    assert answers == {True, False}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scene", [PAIR, THREE_BALLS, ALONE])
def test_follow_up_speaks_of_the_thing_just_named(scene: Scene, language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        example = ask(scene, rng, language, "follow_up")
        assert 1 <= len(example.history) <= 2
        noun = NOUNS[example.facts.kind]
        previous = example.history[-1][1]
        assert (noun.zh if language == "zh" else noun.en) in previous
        assert not any((n.zh if language == "zh" else n.plural) in example.question for n in NOUNS.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_history_is_about_the_same_picture(language: str) -> None:
    lengths = set()
    for scene, example in examples(language, 300):
        lengths.add(len(example.history))
        for _, answer in example.history:
            for thing in re.findall(r"(?:图片中有一|The picture shows an? )(.*)", answer):
                assert any(
                    (NOUNS[t.kind].zh if language == "zh" else NOUNS[t.kind].en) in thing for t in scene.things
                ), (scene, answer)
    assert lengths == {0, 1, 2}


@pytest.mark.parametrize("language", LANGUAGES)
def test_talk_without_a_picture(language: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [ask(None, rng, language) for _ in range(500)]
    assert {example.kind for example in drawn} == {"text"}
    assert all(is_right(example, example.answer) and not example.history for example in drawn)
    assert {e.facts.value for e in drawn if e.facts.aspect == "topic"} == set(topics_of(language))
    with pytest.raises(ValueError, match="describe"):
        ask(None, rng, language, "describe")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_missing_picture_is_said_to_be_missing(language: str) -> None:
    example = find(None, language, "text", value="no picture")
    assert not is_right(example, "图片中有一个球。" if language == "zh" else "The picture shows a ball.")
    blind = {ask(None, np.random.default_rng(seed), language).question for seed in range(800)}
    assert blind & {"描述这张图片。", "Describe the image."}


@pytest.mark.parametrize("language", LANGUAGES)
def test_small_talk_replies_do_not_pass_for_one_another(language: str) -> None:
    for name in topics_of(language):
        example = find(None, language, "text", value=name)
        for other, topic in topics_of(language).items():
            if {name, other} & {"ability", "hello", "who"} and name != other:
                continue  # these may well say what one another say
            assert is_right(example, topic.answer) == (name == other), (name, other)


def test_each_question_has_many_wordings() -> None:
    assert set(ZH) == set(EN)
    for language in LANGUAGES:
        for topic in ZH:
            wordings = wordings_of(language, topic)
            assert len(set(wordings)) == len(wordings) >= 8
        assert all(len(set(topic.questions)) >= 8 for topic in topics_of(language).values())
    assert {"描述这张图片。"} <= set(ZH["describe"])
    assert {"Describe the image."} <= set(EN["describe"])
    assert {"这张图片里有什么？"} <= set(ZH["objects"])
    assert {"What is in the picture?"} <= set(EN["objects"])


@pytest.mark.parametrize(
    ("language", "kind", "answer"),
    [
        (
            "zh",
            "describe",
            "图片中有一个红色的球和一辆蓝色的小汽车。红色的球在左上角，蓝色的小汽车在右边。",
        ),
        (
            "en",
            "describe",
            "The picture shows a red ball and a blue car. "
            "The red ball is in the top left corner, and the blue car is on the right.",
        ),
        ("zh", "objects", "图片中有一个红色的球和一辆蓝色的小汽车。"),
        ("en", "objects", "There is a red ball and a blue car in the picture."),
    ],
)
def test_wording_of_a_pair(language: str, kind: str, answer: str) -> None:
    assert find(PAIR, language, kind).answer == answer


def test_wording_of_one_thing() -> None:
    assert find(ALONE, "zh", "describe").answer == "图片中有一个橙色的方块，它在下方。"
    assert find(ALONE, "en", "describe").answer == "The picture shows an orange box. It is at the bottom."
    assert find(ALONE, "en", "objects").answer == "There is an orange box in the picture."


@pytest.mark.parametrize(
    ("language", "kind", "facts", "answer"),
    [
        ("zh", "count", {"value": 3, "kind": None}, "图片中一共有三个物体。"),
        ("en", "count", {"value": 3, "kind": None}, "There are three objects in the picture."),
        ("zh", "count", {"value": 3, "kind": "ball"}, "图片中有三个球。"),
        ("en", "count", {"value": 3, "kind": "ball"}, "There are three balls in the picture."),
        ("zh", "count", {"value": 0, "kind": "tree"}, "图片中没有树。"),
        ("en", "count", {"value": 0, "kind": "fish"}, "There are no fish in the picture."),
        ("zh", "exists", {"kind": "ball", "colour": None}, "有，图片中有三个球。"),
        ("en", "exists", {"kind": "ball", "colour": None}, "Yes, there are three balls in the picture."),
        ("zh", "exists", {"kind": "ball", "colour": "blue"}, "没有，图片中没有蓝色的球。"),
        ("en", "exists", {"kind": "ball", "colour": "blue"}, "No, there is no blue ball in the picture."),
        ("zh", "absent", {"kind": "star", "colour": None}, "图片中没有星星。"),
        ("en", "absent", {"kind": "star", "colour": None}, "There is no star in the picture."),
        ("zh", "where", {"colour": "green"}, "绿色的球在中间。"),
        ("en", "where", {"colour": "black"}, "The black ball is on the right."),
    ],
)
def test_wording_of_the_three_balls(language: str, kind: str, facts: dict[str, object], answer: str) -> None:
    assert find(THREE_BALLS, language, kind, **facts).answer == answer


def test_articles_plurals_and_measure_words() -> None:
    assert name_one("en", "box", "orange") == "an orange box"
    assert name_one("en", "car", "red") == "a red car"
    assert [name_count("en", 2, kind) for kind in ("box", "cross", "fish")] == ["two boxes", "two crosses", "two fish"]
    assert name_count("en", 1, "box") == "one box"
    expected = {"car": "两辆小汽车", "tree": "两棵树", "fish": "两条鱼", "house": "两座房子", "star": "两颗星星"}
    assert {kind: name_count("zh", 2, kind) for kind in expected} == expected


def test_things_are_named_in_reading_order() -> None:
    turned = replace(PAIR, things=PAIR.things[::-1])
    assert find(turned, "zh", "describe").answer == find(PAIR, "zh", "describe").answer


def test_common_sense_hides_no_kind() -> None:
    for zh, en, colour in WORLD:
        assert colour in COLOURS
        assert not any(NOUNS[kind].zh in zh or NOUNS[kind].en in en.split() for kind in KINDS)


def test_corpus_covers_letters_and_words() -> None:
    texts = list(corpus(np.random.default_rng(0), 3000))
    assert len(texts) == 3000
    letters = set("".join(texts))
    assert set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") <= letters
    assert set("，。！？：；、.,!?:;'\"()[]") <= letters
    names = {noun.zh for noun in NOUNS.values()} | {noun.plural for noun in NOUNS.values()}
    assert all(any(name in text for text in texts) for name in names)
    assert texts == list(corpus(np.random.default_rng(0), 3000))
    assert len(list(corpus(np.random.default_rng(0), 5))) == 5

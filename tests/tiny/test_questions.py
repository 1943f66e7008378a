"""Questions have one correct answer, which holds in the scene, and many wordings."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.tiny.scene_examples import (
    ALONE,
    BACKGROUND_WORDS,
    FIELDS,
    LANGUAGES,
    PAIR,
    PICTURE_KINDS,
    THREE_BALLS,
    examples,
    find,
    texts_of,
)
from tiny.grading import is_correct, score_things
from tiny.grading.mentions import find_mentions
from tiny.questions import QUESTION_KINDS, Example, askable_kinds, has_same_answer, sample_example, tokenizer_corpus
from tiny.words.sentences import expand, read_sentences, templates_of, topics_of
from visualglm.scenes import COLORS, HELD_OUT, KINDS, Scene, sample_scene
from visualglm.scenes.answers import describe_in_detail, describe_plainly, word_answer
from visualglm.scenes.facts import answer_facts
from visualglm.scenes.vocabulary import NOUNS, name_count, name_one


def test_same_rng_same_example() -> None:
    assert examples("zh", 30) == examples("zh", 30)
    assert examples("zh", 30) != examples("zh", 30, seed=1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_five_hundred_examples_are_sound(language: str) -> None:
    kinds = set()
    for _, example in examples(language, 500):
        kinds.add(example.kind)
        assert example.language == language
        assert is_correct(example, example.answer), example
        assert not is_correct(example, "")
        for text in texts_of(example):
            assert not re.search(BACKGROUND_WORDS[language], text.lower()), text
            assert not re.search(r"[][{}@|]|None|  ", text), text
            assert text == text.strip()
            if example.kind != "text":
                assert bool(re.search(r"[\u4e00-\u9fff]", text)) == (language == "zh"), text
    assert kinds == set(QUESTION_KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_do_not_depend_on_the_background(language: str) -> None:
    for (scene, example), seed in zip(examples(language, 50), range(50), strict=True):
        other = replace(scene, background="sea", seed=1)
        first, second = (sample_example(s, np.random.default_rng(seed), language, example.kind) for s in (scene, other))
        assert first == second


def answers_in(example: Example, scene: Scene) -> list[str]:
    """Return the correct answers to the same question in another scene; none if they are ambiguous there."""
    facts = answer_facts(example.facts, scene)
    if facts is None:
        return []
    if example.kind == "describe":
        return [describe(example.language, facts) for describe in (describe_plainly, describe_in_detail)]
    return [word_answer(example.language, facts)]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_a_question_fits_a_scene_exactly_where_its_answer_stays_right(kind: str, language: str) -> None:
    drawn = examples(language, 120, kind=kind)
    unfit = 0
    for number, (scene, example) in enumerate(drawn):
        assert has_same_answer(example, scene)
        for other, _ in drawn[number + 1 : number + 9]:
            if not has_same_answer(example, other):
                answers = answers_in(example, other)
                unfit += len(answers)
                assert not any(is_correct(example, answer) for answer in answers), (example, answers)
    assert unfit >= 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_facts_of_another_scene_do_not_fit(language: str) -> None:
    moved = replace(PAIR, things=(PAIR.things[0], replace(PAIR.things[1], x=0.5, y=0.8, color="green", size="small")))
    assert not has_same_answer(find(PAIR, language, "where", kind="car", claim=None), moved)
    assert not has_same_answer(find(PAIR, language, "colour", kind="car", claim=None), moved)
    assert not has_same_answer(find(PAIR, language, "objects", region=None), moved)
    assert not has_same_answer(find(PAIR, language, "describe"), moved)
    assert not has_same_answer(find(PAIR, language, "count", value=2, kind=None, color=None), ALONE)
    assert not has_same_answer(find(PAIR, language, "exists", kind="car", value=True), ALONE)
    assert not has_same_answer(find(PAIR, language, "absent", kind="box", color=None), ALONE)
    assert not has_same_answer(find(PAIR, language, "larger"), ALONE)
    assert has_same_answer(find(PAIR, language, "where", kind="ball", color=None, claim=None), moved)
    assert has_same_answer(find(PAIR, language, "exists", kind="car", color=None), moved)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_names_a_pair_that_is_held_out(language: str) -> None:
    rng = np.random.default_rng(4)
    for number in range(3000):
        scene = None if number % 10 == 0 else sample_scene(rng, 5, held_out=number % 3 == 0)
        shown = set() if scene is None else {(thing.color, thing.kind) for thing in scene.things}
        example = sample_example(scene, rng, language)
        assert (example.facts.claim, example.facts.kind) not in HELD_OUT - shown
        for text in texts_of(example):
            named = {(mention.color, mention.kind) for mention in find_mentions(language, text.lower())}
            assert not named & (HELD_OUT - shown), text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["describe", "objects"])
def test_things_are_scored(kind: str, language: str) -> None:
    for scene, example in examples(language, 60, kind=kind):
        score = score_things(example, example.answer)
        assert (score.right, score.wrong, score.missing) == (len(example.facts.things), 0, 0), (scene, example)
        assert score_things(example, "").missing == len(example.facts.things)
    both = find(PAIR, language, kind, region=None)
    wrong = "图片中有一个红色的球和一棵蓝色的树。" if language == "zh" else "There is a red ball and a blue tree."
    score = score_things(both, wrong)
    assert (score.right, score.wrong, score.missing) == (1, 1, 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_color_is_asked_only_of_a_single_thing(language: str) -> None:
    assert "colour" not in askable_kinds(THREE_BALLS)
    with pytest.raises(ValueError, match="colour"):
        sample_example(THREE_BALLS, np.random.default_rng(0), language, "colour")
    for scene, example in examples(language, 100, kind="colour"):
        if example.facts.region is None:
            assert [thing.kind for thing in scene.things].count(example.facts.kind) == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scene", [PAIR, THREE_BALLS, ALONE])
def test_where_has_one_answer(scene: Scene, language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        facts = sample_example(scene, rng, language, "where").facts
        fitting = [t for t in scene.things if facts.kind in (None, t.kind) and facts.color in (None, t.color)]
        assert len(fitting) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_absent_things_are_absent(language: str) -> None:
    for scene, example in examples(language, 200, kind="absent"):
        facts = example.facts
        assert not any(t.kind == facts.kind and facts.color in (None, t.color) for t in scene.things)


@pytest.mark.parametrize("language", LANGUAGES)
def test_existence_is_true(language: str) -> None:
    answers = set()
    for scene, example in examples(language, 200, kind="exists"):
        facts = example.facts
        there = any(t.kind == facts.kind and facts.color in (None, t.color) for t in scene.things)
        if facts.kind is None:
            there = any(t.color == facts.color for t in scene.things)
        assert facts.value is there
        answers.add(there)
    assert answers == {True, False}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scene", [PAIR, THREE_BALLS, ALONE])
def test_follow_up_comes_after_an_exchange(scene: Scene, language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        example = sample_example(scene, rng, language, "follow_up")
        assert 1 <= len(example.history) <= 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_the_thing_just_named(language: str) -> None:
    for _, example in examples(language, 400, kind="follow_up"):
        if re.search("它" if language == "zh" else r"\bit(s|'s)?\b", example.question.lower()):
            named = [m.kind for m in find_mentions(language, example.history[-1][1].lower()) if m.kind]
            spoken = [m.kind for m in find_mentions(language, example.answer.lower()) if m.kind]
            assert set(named) & set(spoken), example


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_other_one_is_not_the_one_before(language: str) -> None:
    asked = 0
    for scene, example in examples(language, 600, kind="follow_up"):
        if re.search("另" if language == "zh" else r"\bother\b", example.question.lower()):
            asked += 1
            (color, kind, _) = example.facts.things[0]
            kinds = [thing.kind for thing in scene.things]
            assert len(kinds) == 2 or kinds.count(kind) == 2
            assert example.history[-1][1] != example.answer
            named = find_mentions(language, example.history[-1][1].lower())
            assert (color, kind) not in {(mention.color, mention.kind) for mention in named}
    assert asked > 30


@pytest.mark.parametrize("language", LANGUAGES)
def test_history_is_about_the_same_scene(language: str) -> None:
    lengths = set()
    for scene, example in examples(language, 300):
        lengths.add(len(example.history))
        for _, answer in example.history:
            for thing in re.findall(r"(?:图片中有一|The picture shows an? )(.*)", answer):
                assert any(
                    (NOUNS[t.kind].zh if language == "zh" else NOUNS[t.kind].en) in thing for t in scene.things
                ), (scene, answer)
    assert lengths == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_without_an_image(language: str) -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_example(None, rng, language) for _ in range(1000)]
    assert {example.kind for example in drawn} == {"text"}
    assert all(is_correct(example, example.answer) and len(example.history) <= 1 for example in drawn)
    assert {e.facts.value for e in drawn if e.facts.aspect == "topic"} == set(topics_of(language))
    with pytest.raises(ValueError, match="describe"):
        sample_example(None, rng, language, "describe")


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_say_that_an_image_is_missing(language: str) -> None:
    example = find(None, language, "text", value="no picture")
    assert not is_correct(example, "图片中有一个球。" if language == "zh" else "The picture shows a ball.")
    rng = np.random.default_rng(0)
    drawn = [sample_example(None, rng, language) for _ in range(1500)]
    blind = {example.question.lower() for example in drawn if example.facts.value == "no picture"}
    for words in (
        (("描述",), ("哪里", "哪儿"), ("颜色",), ("几", "多少"), ("左边",), ("大",), ("它",))
        if language == "zh"
        else (("describe",), ("where",), ("colo",), ("how many",), ("left",), ("larger", "bigger"), ("it",))
    ):
        assert any(word in question for question in blind for word in words), words


@pytest.mark.parametrize("language", LANGUAGES)
def test_small_talk_replies_are_distinguished(language: str) -> None:
    for name in topics_of(language):
        example = find(None, language, "text", value=name)
        for other, topic in topics_of(language).items():
            if {name, other} & {"ability", "hello", "who", "how are you", "praise"} and name != other:
                continue  # replies to these topics may be interchangeable
            assert is_correct(example, topic.answer) == (name == other), (name, other)


def test_each_question_has_many_wordings() -> None:
    assert set(templates_of("zh")) == set(templates_of("en"))
    rng = np.random.default_rng(0)
    for language in LANGUAGES:
        for topic, wordings in templates_of(language).items():
            assert len(set(wordings)) == len(wordings)
            fields = dict.fromkeys(FIELDS, "X")
            drawn = {expand(rng, language, wordings[n % len(wordings)], fields) for n in range(600)}
            assert len(drawn) >= (8 if len(wordings) > 5 else 5), (topic, len(drawn))
        for topic in topics_of(language).values():
            assert len({expand(rng, language, wording) for wording in topic.questions * 40}) >= 8
    assert "描述这张图片。" in templates_of("zh")["describe"]
    assert "What is in the picture?" in templates_of("en")["objects"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_template_reads_well(language: str) -> None:
    """All alternatives expand; no field stays open, no space is doubled, no punctuation repeated."""
    rng = np.random.default_rng(0)
    fields = dict.fromkeys(FIELDS, "X")
    for topic, wordings in templates_of(language).items():
        for template in wordings:
            for _ in range(30):
                text = expand(rng, language, template, fields)
                assert text == text.strip(), (topic, template)
                assert not re.search(r"[][{}@|]|  | [,.?]|[？。，]{2}|的的|吗吗|请请|是是", text), (topic, text)


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
    for zh, en, color in read_sentences("world")["things"]:
        assert color in COLORS
        assert not any(NOUNS[kind].zh in zh or NOUNS[kind].en in en.split() for kind in KINDS)


def test_corpus_covers_letters_and_words() -> None:
    texts = list(tokenizer_corpus(np.random.default_rng(0), 3000))
    assert len(texts) == 3000
    letters = set("".join(texts))
    assert set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") <= letters
    assert set("，。！？：；、.,!?:;'\"()[]") <= letters
    names = {noun.zh for noun in NOUNS.values()} | {noun.plural for noun in NOUNS.values()}
    assert all(any(name in text for text in texts) for name in names)
    assert texts == list(tokenizer_corpus(np.random.default_rng(0), 3000))
    assert len(list(tokenizer_corpus(np.random.default_rng(0), 5))) == 5

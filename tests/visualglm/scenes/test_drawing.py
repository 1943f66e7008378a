"""A drawn scene is reproducible, and its questions have true answers in both languages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model import CHINESE, ENGLISH, Conversation, GenerationConfig, load_sat
from visualglm.scenes import DrawnScene, Scene, draw_scene, sample_scene
from visualglm.scenes.answers import word_answer
from visualglm.scenes.drawing import sample_facts, word_question
from visualglm.scenes.facts import answer_facts
from visualglm.scenes.sentences import FOLDER, LANGUAGES, read_sentences

ROOT = Path(__file__).parents[3]


def texts(drawn: DrawnScene) -> list[tuple[dict[str, str], dict[str, str]]]:
    return [({**question.question}, {**question.answer}) for question in drawn.questions]


def scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(count)]


def test_a_seed_determines_the_image_and_the_questions() -> None:
    first, again, other = draw_scene(5), draw_scene(5), draw_scene(6)
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert texts(first) == texts(again) != texts(other)
    assert first.image.mode == "RGB"


def test_a_negative_seed_is_rejected() -> None:
    with pytest.raises(ValueError, match="negative"):
        draw_scene(-1)


@pytest.mark.parametrize("seed", range(40))
def test_there_are_about_six_different_questions_in_both_languages(seed: int) -> None:
    questions = draw_scene(seed).questions
    assert 5 <= len(questions) <= 8
    for language in LANGUAGES:
        asked = {question.question[language] for question in questions}
        assert len(asked) == len(questions)
        assert all(question.answer[language] for question in questions)
    assert all(question.question["zh"].endswith("？") for question in questions)
    assert all(question.question["en"].endswith("?") for question in questions)


def test_each_kind_of_question_is_asked_about_some_scene() -> None:
    kinds = {facts.aspect for scene in scenes(20) for facts in sample_facts(scene, np.random.default_rng(0))}
    assert kinds == {"things", "count", "colour", "where", "exists", "extreme", "relation"}


def test_answers_are_yes_and_no_about_equally_often() -> None:
    drawn = [facts for scene in scenes(60) for facts in sample_facts(scene, np.random.default_rng(scene.seed))]
    values = [facts.value for facts in drawn if facts.aspect == "exists"]
    assert 15 < values.count(True) < 45
    assert values.count(True) + values.count(False) == 60


def test_no_field_of_a_question_is_left_unfilled() -> None:
    for scene in scenes(30):
        for facts in sample_facts(scene, np.random.default_rng(1)):
            for language in LANGUAGES:
                assert not {"{", "}"} & {*word_question(language, facts), *word_answer(language, facts)}


def test_the_answers_hold_in_the_scene_and_not_in_every_other() -> None:
    differing = 0
    for scene, other in zip(scenes(20), reversed(scenes(20)), strict=True):
        for facts in sample_facts(scene, np.random.default_rng(2)):
            if facts.aspect != "extreme":  # its answer states the kind, which would be part of the query
                assert answer_facts(facts, scene) == facts
                differing += answer_facts(facts, other) != facts
    assert differing > 50


def test_both_languages_have_the_same_questions_and_answers() -> None:
    for name in ("questions", "answers"):
        zh, en = (read_sentences(f"{language}/{name}") for language in LANGUAGES)
        assert set(zh) == set(en)
    assert {path.name for path in (FOLDER / "zh").iterdir()} == {path.name for path in (FOLDER / "en").iterdir()}


def test_the_embedded_model_answers_truthfully() -> None:
    model = load_sat("visualglm-tiny", device="cpu")
    greedy, right, asked = GenerationConfig(temperature=0), 0, 0
    drawn = draw_scene(1)
    for language, prompt_language in (("zh", CHINESE), ("en", ENGLISH)):
        for question in drawn.questions:
            conversation = Conversation(drawn.image, [], prompt_language)
            chunks = model.stream_answer(conversation, question.question[language], greedy)
            right += "".join(chunk.text for chunk in chunks) == question.answer[language]
            asked += 1
    assert right >= 0.8 * asked


def test_drawing_imports_neither_torch_nor_another_package_of_the_project() -> None:
    code = (
        "import sys, visualglm.scenes as scenes; scenes.draw_scene(0);"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'gradio', 'model', 'tiny'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Metrics equal the official numbers to 1e-6; see the "how" of each file in `fixtures`."""

import math
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.visualglm.evaluation.helpers import answered, fixture
from visualglm.evaluation.answers import Answered
from visualglm.evaluation.data import Choice
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.metrics import (
    DEFAULT_METRICS,
    METRICS,
    ObjectList,
    chair,
    choose,
    choose_letter,
    exact_match,
    mme_totals,
    normalize_vqa,
    parse_mme,
    parse_pope,
    read_objects,
    score,
    score_kinds,
    tokenize,
    vqa_accuracy,
)
from visualglm.evaluation.metrics.metric import import_extra


def close(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No metric may start Java, or any other program."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def captions() -> list[Answered]:
    numbers = fixture("captions")
    pairs = zip(numbers["answers"], numbers["references"], strict=True)
    return [answered(answer, *references, key=str(key)) for key, (answer, references) in enumerate(pairs)]


def test_tokens_are_those_of_the_penn_treebank_tokenizer() -> None:
    for text, tokens in fixture("tokens")["tokens"]:
        assert " ".join(tokenize(text)) == tokens


def test_chinese_is_split_by_character() -> None:
    assert tokenize("图中有 2 只dogs，很大。") == ["图", "中", "有", "2", "只", "dogs", "很", "大"]


def test_bleu() -> None:
    scores = score(METRICS["bleu"], captions())
    assert [scores[f"bleu_{order}"] / 100 for order in range(1, 5)] == close(fixture("captions")["bleu"])


@pytest.mark.parametrize("name", ["rouge_l", "cider"])
def test_means_of_captions(name: str) -> None:
    metric, numbers = METRICS[name], fixture("captions")
    statistics = metric.measure(captions())
    assert metric.grade(statistics) == close(np.array(numbers[f"{name}_each"]))
    assert score(metric, captions())[name] / 100 == close(numbers[name])


def test_chrf_and_rouge() -> None:
    numbers = fixture("texts")
    assert score(METRICS["chrf"], captions())["chrf"] == close(numbers["chrf"])
    for name, value in score(METRICS["rouge"], captions()).items():
        assert value / 100 == close(numbers[name])


def test_chrf_in_chinese() -> None:
    numbers = fixture("texts")
    pairs = zip(numbers["chinese_answers"], numbers["chinese_references"], strict=True)
    chinese = [answered(answer, *references) for answer, references in pairs]
    assert score(METRICS["chrf"], chinese)["chrf"] == close(numbers["chinese_chrf"])
    assert score(METRICS["bleu"], chinese)["bleu_1"] > 50
    assert score(METRICS["rouge"], chinese)["rouge_1"] > 50


@pytest.mark.parametrize("name", ["bleu", "rouge_l", "cider", "rouge", "chrf"])
def test_an_empty_answer_scores_zero(name: str) -> None:
    metric = METRICS[name]
    scores = score(metric, [answered("", "A dog."), answered("", "A red cat sits.")])
    assert scores[metric.main] == close(0)


@pytest.mark.parametrize("name", ["bleu", "rouge_l", "cider", "rouge", "chrf"])
def test_texts_without_reference_are_refused(name: str) -> None:
    with pytest.raises(EvaluationError, match="reference"):
        score(METRICS[name], [answered("A dog.", key="77")])


def test_vqa() -> None:
    numbers = fixture("vqa")
    for answer, accepted, normalized, accuracy in numbers["rows"]:
        assert normalize_vqa(answer) == normalized
        assert vqa_accuracy(answer, tuple(accepted)) == close(accuracy)
    rows = [answered(answer, *accepted) for answer, accepted, _, _ in numbers["rows"]]
    assert score(METRICS["vqa"], rows)["vqa"] / 100 == close(numbers["mean"])


def test_vqa_with_one_accepted_answer_compares_after_normalization() -> None:
    assert vqa_accuracy("The two.", ("2",)) == 1
    assert vqa_accuracy("three", ("2",)) == 0


def test_pope() -> None:
    numbers = fixture("pope")
    scores = score(METRICS["pope"], [answered(answer, label) for answer, label in numbers["rows"]])
    for name, value in scores.items():
        assert value / 100 == close(numbers[name])


def test_pope_without_positive_answers_has_no_precision() -> None:
    scores = score(METRICS["pope"], [answered("No", "yes"), answered("No", "no")])
    assert scores["accuracy"] == 50
    assert scores["recall"] == 0
    assert math.isnan(scores["precision"])


@pytest.mark.parametrize(
    ("answer", "expected"), [("是的。", "yes"), ("图中没有狗。", "no"), ("不是", "no"), ("有", "yes")]
)
def test_chinese_yes_and_no(answer: str, expected: str) -> None:
    assert parse_pope(answer) == parse_mme(answer) == expected


def test_mme() -> None:
    numbers = fixture("mme")
    rows = [
        answered(answer, expected.lower(), kind=kind, group=f"{kind}/{index // 2}", key=f"{kind}/{index}")
        for kind, pairs in numbers["rows"].items()
        for index, (expected, answer) in enumerate(pairs)
    ]
    metric = METRICS["mme"]
    kinds = score_kinds(metric, rows, metric.measure(rows))
    assert {*kinds} == {*numbers["scores"]}
    for kind, scores in kinds.items():
        assert scores == close(numbers["scores"][kind])


def test_mme_totals_add_up_the_categories() -> None:
    cognition = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
    kinds = {kind: {"score": 100.0 + number} for number, kind in enumerate(cognition)}
    assert mme_totals(kinds) == {"cognition": 406}


def test_choices_by_letter_or_text() -> None:
    numbers = fixture("choices")
    for answer, index, letter in numbers["rows"]:
        choices = [Choice(*pair) for pair in numbers["options"][index].items()]
        assert choose(answer, choices) == letter, answer


COLORS = (Choice("A", "red"), Choice("B", "blue"))


def test_choices_in_chinese() -> None:
    assert choose_letter("答案是B。", COLORS) == "B"
    assert choose("红色", [Choice("A", "红色"), Choice("B", "蓝色")]) == "A"


def test_choices_by_letter_text_and_logprob() -> None:
    rows = [
        answered("A", "A", choices=COLORS, choice_logprobs=[-2.0, -0.5]),
        answered("blue", "B", choices=COLORS, choice_logprobs=[-2.0, -0.5]),
        answered("red or blue", "B", choices=COLORS),
        answered("B", "A", choices=COLORS),
    ]
    assert score(METRICS["choices"], rows) == {
        "accuracy": 50,
        "by_letter": 25,
        "by_text": 25,
        "by_logprob": 50,
        "chosen": 75,
    }


def test_exact_match_ignores_case_and_punctuation() -> None:
    assert exact_match(" Yes, left!", ["yes left"]) == 1
    assert exact_match("左边。", ["左边"]) == 1
    assert exact_match("left", ["right", "up"]) == 0


def test_chair_counts_absent_objects(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("person, man, woman, baby\ndog, puppy\nbird, baby bird\nhot dog\n球\n", encoding="utf-8")
    objects = read_objects(path)
    assert objects.mentions("Two men with puppies watch a baby bird eat a hot dog.") == [
        *("person", "dog", "bird", "hot dog")
    ]
    assert objects.mentions("桌上有球。") == ["球"]
    rows = [
        answered("A man with a dog.", "A woman stands there.", key="1"),
        answered("A dog and a puppy.", "dog", key="2"),
        answered("Nothing.", "dog", key="3"),
    ]
    # By hand: 4 objects are named, 1 of them (the first dog) is absent; 1 of 3 answers names an absent one; 2 of the 3
    # objects of the images are named.
    assert score(chair(objects), rows) == close({"chair_i": 100 / 4, "chair_s": 100 / 3, "recall": 200 / 3})
    assert chair(objects).grade(chair(objects).measure(rows)).tolist() == [0, 1, 1]


def test_a_name_of_two_objects_is_refused() -> None:
    with pytest.raises(EvaluationError, match="bat"):
        ObjectList([["animal", "bat"], ["club", "bat"]])


def test_every_default_metric_exists() -> None:
    assert {name for names in DEFAULT_METRICS.values() for name in names} <= {*METRICS}


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(EvaluationError, match="evaluate"):
        import_extra("a_module_that_does_not_exist")


def test_java_is_hidden() -> None:
    assert not any((Path(folder) / "java").exists() for folder in os.environ["PATH"].split(":"))

"""Every answer has exactly one wording."""

import re

import numpy as np
import pytest

from tests.tiny.scene_examples import (
    ALONE,
    PAIR,
    THREE_BALLS,
    examples,
    find,
)
from tiny.questions import sample_example


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
    assert answer in {sample_example(PAIR, np.random.default_rng(seed), language, kind).answer for seed in range(40)}


def test_wording_of_one_thing() -> None:
    assert {sample_example(ALONE, np.random.default_rng(seed), "zh", "describe").answer for seed in range(40)} == {
        "图片中有一个橙色的方块，它在下方。",
        "图片中有一个橙色的方块。",
        "图片中只有一个物体：一个小的橙色的方块，它在下方。",
    }
    assert {sample_example(ALONE, np.random.default_rng(seed), "en", "describe").answer for seed in range(40)} == {
        "The picture shows an orange box. It is at the bottom.",
        "The picture shows an orange box.",
        "There is only one object in the picture: a small orange box. It is at the bottom.",
    }
    assert find(ALONE, "en", "objects", region=None).answer == "There is an orange box in the picture."


@pytest.mark.parametrize(
    ("language", "answer"),
    [
        (
            "zh",
            "图片中一共有三个物体。左边有一个小的红色的球，中间是一个小的绿色的球，右边还有一个小的黑色的球。",
        ),
        (
            "en",
            "There are three objects in the picture. On the left there is a small red ball, "
            "in the middle is a small green ball, and on the right there is a small black ball.",
        ),
    ],
)
def test_wording_in_detail(language: str, answer: str) -> None:
    assert answer in {
        sample_example(THREE_BALLS, np.random.default_rng(seed), language, "describe").answer for seed in range(40)
    }


def test_the_style_of_a_description_follows_from_the_question() -> None:
    ends = {"zh": ("最大的是", "一句话"), "en": ("The largest is", "sentence")}
    for language, (detail, brief) in ends.items():
        for _, example in examples(language, 300, kind="describe"):
            sentences = len(re.findall("[。.]", example.answer))
            if brief in example.question:
                assert sentences == 1, example
            if detail in example.answer:
                assert sentences >= 2, example
            if re.search("详细|具体|(?i:in detail|detailed)", example.question) and "不用" not in example.question:
                assert re.match("图片中一共有|图片中只有|There (are|is)", example.answer), example


@pytest.mark.parametrize(("language", "most"), [("zh", 115), ("en", 78)])
def test_answers_are_not_too_long(language: str, most: int) -> None:
    for _, example in examples(language, 400, kind="describe"):
        length = len(example.answer) if language == "zh" else len(example.answer.split())
        assert length <= most


@pytest.mark.parametrize(
    ("language", "kind", "facts", "answer"),
    [
        (
            "zh",
            "larger",
            {"aspect": "larger", "way": "larger", "kind": "ball", "color": None, "other": ("car", None)},
            "小汽车更大。",
        ),
        (
            "en",
            "larger",
            {"aspect": "larger", "way": "smaller", "kind": "car", "color": None, "other": ("ball", None)},
            "The ball is smaller.",
        ),
        ("zh", "larger", {"aspect": "extreme", "way": "largest"}, "小汽车最大。"),
        ("en", "larger", {"aspect": "extreme", "way": "largest"}, "The car is the largest."),
        ("zh", "objects", {"region": "bottom left"}, "左下角什么都没有。"),
        ("en", "objects", {"region": "top left"}, "There is a red ball in the top left corner."),
        ("zh", "colour", {"region": "top left"}, "左上角的球是红色的。"),
        ("en", "colour", {"kind": "car", "claim": "blue"}, "Yes, the car is blue."),
        ("zh", "count", {"kind": None, "color": "red"}, "图片中有一个红色的物体。"),
        ("en", "count", {"kind": None, "color": "green"}, "There are no green objects in the picture."),
        ("zh", "exists", {"kind": None, "color": "red"}, "有，图片中有一个红色的球。"),
        ("en", "exists", {"kind": None, "color": "green"}, "No, there is nothing green in the picture."),
        ("en", "where", {"kind": None, "color": "red"}, "The red ball is in the top left corner."),
        (
            "zh",
            "relation",
            {"way": "left", "other": ("car", None), "aspect": "relation"},
            "小汽车的左边有一个红色的球。",
        ),
        (
            "en",
            "relation",
            {"way": "right", "other": ("car", None), "aspect": "relation"},
            "There is nothing to the right of the car.",
        ),
    ],
)
def test_more_wordings_of_a_pair(language: str, kind: str, facts: dict[str, object], answer: str) -> None:
    assert find(PAIR, language, kind, **facts).answer == answer


@pytest.mark.parametrize(
    ("language", "aspect", "facts", "answer"),
    [
        ("zh", "is_larger", {"kind": "ball", "way": "larger"}, "不是，球比小汽车小。"),
        ("en", "is_larger", {"kind": "car", "way": "larger"}, "Yes, the car is larger than the ball."),
        ("zh", "is_beside", {"kind": "ball", "way": "left"}, "是的，球在小汽车的左边。"),
        ("en", "is_beside", {"kind": "ball", "way": "right"}, "No, the ball is to the left of the car."),
    ],
)
def test_wording_of_yes_or_no(language: str, aspect: str, facts: dict[str, object], answer: str) -> None:
    kind, other = ("larger" if aspect == "is_larger" else "relation"), ("ball", "car")
    names = {"color": None, "other": (next(k for k in other if k != facts["kind"]), None), "aspect": aspect}
    assert find(PAIR, language, kind, **facts, **names).answer == answer


@pytest.mark.parametrize(
    ("language", "kind", "facts", "answer"),
    [
        ("zh", "count", {"value": 3, "kind": None, "color": None}, "图片中一共有三个物体。"),
        ("en", "count", {"value": 3, "kind": None, "color": None}, "There are three objects in the picture."),
        ("zh", "count", {"value": 3, "kind": "ball"}, "图片中有三个球。"),
        ("en", "count", {"value": 3, "kind": "ball"}, "There are three balls in the picture."),
        ("zh", "count", {"value": 0, "kind": "tree"}, "图片中没有树。"),
        ("en", "count", {"value": 0, "kind": "fish"}, "There are no fish in the picture."),
        ("zh", "exists", {"kind": "ball", "color": None}, "有，图片中有三个球。"),
        ("en", "exists", {"kind": "ball", "color": None}, "Yes, there are three balls in the picture."),
        ("zh", "exists", {"kind": "ball", "color": "blue"}, "没有，图片中没有蓝色的球。"),
        ("en", "exists", {"kind": "ball", "color": "blue"}, "No, there is no blue ball in the picture."),
        ("zh", "absent", {"kind": "star", "color": None}, "图片中没有星星。"),
        ("en", "absent", {"kind": "star", "color": None}, "There is no star in the picture."),
        ("zh", "where", {"kind": "ball", "color": "green", "claim": None}, "绿色的球在中间。"),
        ("en", "where", {"kind": "ball", "color": "black", "claim": None}, "The black ball is on the right."),
    ],
)
def test_wording_of_the_three_balls(language: str, kind: str, facts: dict[str, object], answer: str) -> None:
    assert find(THREE_BALLS, language, kind, **facts).answer == answer

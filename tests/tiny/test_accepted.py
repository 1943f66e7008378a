"""Answers to questions of an external dataset are graded by their meaning."""

from typing import get_args

import pytest

from tiny.grading.accepted import is_accepted
from tiny.words.sentences import Language
from visualglm.scenes import COLORS, KINDS, REGIONS
from visualglm.scenes.vocabulary import name_one, name_region

SAME = [  # language, question, accepted, answers that are right
    ("en", "Where is the ball?", "left", ["left", "Left.", "On the left", "The ball is on the left side."]),
    ("en", "Where is the ball?", "top left", ["in the top left corner", "Upper-left!", "TOP LEFT", "left top"]),
    ("en", "What colour is it?", "red", ["Red", "It's red.", "The ball on the left is red."]),
    (
        "en",
        "What colours are there?",
        "red and blue",
        ["blue and red", "Red, blue.", "There is a red ball and a blue one"],
    ),
    ("en", "How many balls are there?", "two", ["2", "There are two.", "Two balls.", "２"]),
    ("en", "How many balls are there?", "0", ["none", "There are no balls.", "zero"]),
    ("en", "What is there?", "a red ball", ["red ball", "There is a red ball.", "The ball is red."]),
    ("en", "What is to the left of the blue car?", "red ball", ["To the left of the blue car there is a red ball."]),
    ("en", "Is there a ball?", "no", ["No.", "No, there is not.", "There is no ball"]),
    ("en", "Is there a ball?", "Yes", ["yes", "Yes, there is a ball."]),
    ("en", "What animal is it?", "a dog", ["A dog", "I think it is a dog."]),
    (
        "en",
        "Which is larger, the ball or the car?",
        "the car",
        ["The car is larger.", "The car is larger than the ball."],
    ),
    ("en", "Is the ball left or right of the car?", "left", ["The ball is to the left of the car.", "On the left."]),
    ("en", "Where is the ball?", "to the left of the car", ["The ball is to the left of the car.", "left of the car"]),
    ("zh", "球在小汽车的哪边？", "左边", ["球在小汽车的左边。", "左侧", "它的左面"]),
    ("zh", "球在哪里？", "左上角", ["左上角。", "在左上", "球在图片的左上角。", "左上方"]),
    ("zh", "球在哪里？", "左", ["左边", "在左侧", "左"]),
    ("zh", "球是什么颜色的？", "红色", ["红", "红色的", "球是红色的。"]),
    ("zh", "有几个球？", "两个", ["2", "有两个球。", "二", "2个", "２个"]),
    ("zh", "有几个球？", "0", ["没有球。", "零个"]),
    ("zh", "有什么？", "红色的球", ["一个红色的球。", "红球", "图片中有一个红色的球。"]),
    ("zh", "有球吗？", "没有", ["图片中没有球。", "没有"]),
    ("zh", "有球吗？", "有", ["有。", "图片中有一个球。"]),
    ("zh", "这是什么动物？", "一只狗", ["这是一只狗。", "一只 狗！"]),
    ("zh", "球和小汽车哪个更大？", "小汽车", ["小汽车更大。", "小汽车比球大。"]),
]
OTHER = [  # language, question, accepted, answers that are wrong
    (
        "en",
        "Where is the ball?",
        "left",
        ["in the top left corner", "on the right", "It is not on the left.", "", "lefty"],
    ),
    ("en", "What colour is it?", "red", ["red and blue", "blue", "It is not red", "I do not know", "reddish"]),
    ("en", "Is it red or blue?", "red", ["red and blue", "It is red or blue."]),
    ("en", "How many balls are there?", "two", ["three", "two or three", "12", "There are no balls."]),
    ("en", "How many balls are there?", "0", ["1", "There are balls", "There are not two, but three."]),
    (
        "en",
        "What is there?",
        "a red ball",
        ["a ball", "a blue ball", "a red car", "a red ball and a red car", "no red ball"],
    ),
    ("en", "What is there?", "a red ball and a blue car", ["a blue ball and a red car", "a red ball"]),
    ("en", "Is there a ball?", "yes", ["No", "yes, there is no ball", "eyes"]),
    ("en", "Is there a ball?", "no", ["Yes", "nowhere else"]),
    ("en", "What animal is it?", "cat", ["catfish", "a dog", "not a cat"]),
    (
        "en",
        "Which is larger, the ball or the car?",
        "the car",
        ["The ball is larger.", "The ball is larger than the car."],
    ),
    ("en", "Is the ball left or right of the car?", "left", ["The ball is to the right of the car.", "right"]),
    (
        "en",
        "Where is the ball?",
        "to the left of the car",
        ["It is to the right of the car.", "to the left of the box"],
    ),
    ("en", "What is the largest?", "a large red ball", ["a small red ball", "a red ball"]),
    ("zh", "球在小汽车的哪边？", "左边", ["球在小汽车的右边。", "小汽车的上面"]),
    ("zh", "球在哪里？", "左边", ["左上角", "右边", "不在左边", ""]),
    ("zh", "球是什么颜色的？", "红色", ["红色和蓝色", "蓝色", "不是红色"]),
    ("zh", "有几个球？", "两个", ["三个", "没有球", "一个或两个", "12"]),
    ("zh", "有什么？", "红色的球", ["红色的小汽车", "球", "红色的球和红色的鱼", "没有红色的球"]),
    ("zh", "有球吗？", "有", ["没有。", "无"]),
    ("zh", "有球吗？", "没有", ["有。", "图片中有一个球。"]),
    ("zh", "这是什么动物？", "狗", ["猫", "不是狗"]),
    ("zh", "球和小汽车哪个更大？", "小汽车", ["球更大。", "球比小汽车大。"]),
]


@pytest.mark.parametrize(("language", "question", "accepted", "answers"), SAME)
def test_equivalent_answers_are_correct(language: Language, question: str, accepted: str, answers: list[str]) -> None:
    for answer in answers:
        assert is_accepted(language, question, ["something else", accepted], answer), answer


@pytest.mark.parametrize(("language", "question", "accepted", "answers"), OTHER)
def test_other_answers_are_wrong(language: Language, question: str, accepted: str, answers: list[str]) -> None:
    for answer in answers:
        assert not is_accepted(language, question, [accepted], answer), answer


@pytest.mark.parametrize("language", get_args(Language))
def test_every_region_and_thing_matches_only_itself(language: Language) -> None:
    regions = [name_region(language, region) for region in REGIONS]
    things = [name_one(language, kind, color) for kind in KINDS for color in COLORS]
    for names in (regions, things):
        for accepted in names:
            assert [name for name in names if is_accepted(language, "?", [accepted], f"{name}!")] == [accepted]


def test_an_answer_without_a_word_is_never_right() -> None:
    assert not is_accepted("en", "Where?", ["?"], "...")


def test_the_time_grows_no_faster_than_the_answer() -> None:
    """Patterns that try every way to divide such a text would never end."""
    things = "左上" * 8000
    assert not is_accepted("zh", "有什么？", [f"{things}{'个' * 8000}狗"], things)

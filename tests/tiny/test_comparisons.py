"""Answers that compare sizes and sides are graded correctly."""

import pytest

from tiny.grading import is_correct
from tiny.words.sentences import Language
from visualglm.scenes.facts import Example, Facts

BALL, CAR = ("red", "ball", "top left"), ("blue", "car", "right")


def example(language: Language, facts: Facts) -> Example:
    """Return an example in which only the facts matter."""
    return Example("any", language, (), "", "", facts)


LARGER = Facts("larger", True, "car", None, (CAR, BALL), other=("ball", None), way="larger")
IS_LARGER = Facts("is_larger", False, "ball", None, (CAR, BALL), other=("car", None), way="larger")
LARGEST = Facts("extreme", None, "car", None, (CAR, BALL, ("green", "tree", "bottom")), way="largest")
TWO_BALLS = Facts(
    "larger",
    False,
    "ball",
    "blue",
    (("red", "ball", "left"), ("blue", "ball", "top")),
    other=("ball", "red"),
    way="smaller",
)


@pytest.mark.parametrize(
    ("language", "facts", "answer", "right"),
    [
        ("zh", LARGER, "小汽车", True),
        ("zh", LARGER, "小汽车比球大。", True),
        ("zh", LARGER, "更大的是小汽车", True),
        ("zh", LARGER, "球比小汽车小。", True),
        ("zh", LARGER, "球和小汽车相比，汽车更大。", True),
        ("zh", LARGER, "球更大。", False),
        ("zh", LARGER, "小汽车更小。", False),
        ("zh", LARGER, "小汽车不比球大。", False),
        ("zh", LARGER, "树更大。", False),
        ("zh", LARGER, "球和小汽车一样大。", False),
        ("en", LARGER, "The car.", True),
        ("en", LARGER, "the car is bigger than the ball", True),
        ("en", LARGER, "The larger one is the blue car.", True),
        ("en", LARGER, "The ball is smaller than the car.", True),
        ("en", LARGER, "The car is smaller.", False),
        ("en", LARGER, "The ball is larger than the car.", False),
        ("en", LARGER, "The red car is larger.", False),
        ("en", TWO_BALLS, "The red one.", True),
        ("en", TWO_BALLS, "The red ball is smaller.", True),
        ("en", TWO_BALLS, "The ball is smaller.", False),
        ("en", TWO_BALLS, "The blue ball is larger.", True),
        ("zh", TWO_BALLS, "红球更小", True),
        ("zh", TWO_BALLS, "蓝色的球更小。", False),
        ("zh", IS_LARGER, "不是，球比小汽车小。", True),
        ("zh", IS_LARGER, "不是。", True),
        ("zh", IS_LARGER, "小汽车更大", True),
        ("zh", IS_LARGER, "不，小汽车更大", True),
        ("zh", IS_LARGER, "球没有小汽车大", True),
        ("zh", IS_LARGER, "是的，球比小汽车大。", False),
        ("zh", IS_LARGER, "是的", False),
        ("zh", IS_LARGER, "不是，球比小汽车大。", False),
        ("en", IS_LARGER, "No", True),
        ("en", IS_LARGER, "No, it is smaller.", True),
        ("en", IS_LARGER, "The ball is not larger than the car.", True),
        ("en", IS_LARGER, "No, the car is larger.", True),
        ("en", IS_LARGER, "Yes, it is.", False),
        ("en", IS_LARGER, "No, the ball is larger.", False),
        ("zh", LARGEST, "小汽车最大。", True),
        ("zh", LARGEST, "最大的是蓝色的小汽车", True),
        ("zh", LARGEST, "树最大。", False),
        ("zh", LARGEST, "小汽车最小。", False),
        ("en", LARGEST, "The car.", True),
        ("en", LARGEST, "The biggest object is the blue car.", True),
        ("en", LARGEST, "The tree is the largest.", False),
        ("en", LARGEST, "The car is the smallest.", False),
    ],
)
def test_grading_sizes(language: Language, facts: Facts, answer: str, right: bool) -> None:
    assert is_correct(example(language, facts), answer) is right


LEFT_OF_CAR = Facts("relation", things=(BALL, ("green", "tree", "left")), other=("car", None), way="left")
NOTHING = Facts("relation", other=("car", "blue"), way="above")
IS_LEFT = Facts("is_beside", True, "ball", None, (BALL, CAR), other=("car", None), way="left")
IS_RIGHT = Facts("is_beside", False, "ball", None, (BALL, CAR), other=("car", None), way="right")


@pytest.mark.parametrize(
    ("language", "facts", "answer", "right"),
    [
        ("zh", LEFT_OF_CAR, "一个红球和一棵绿树", True),
        ("zh", LEFT_OF_CAR, "小汽车左边有一个球、一棵树。", True),
        ("zh", LEFT_OF_CAR, "蓝色的小汽车的左边有一个红色的球和一棵绿色的树。", True),
        ("zh", LEFT_OF_CAR, "小汽车的左边有一个红色的球。", False),
        ("zh", LEFT_OF_CAR, "小汽车的左边有一个蓝色的球和一棵绿色的树。", False),
        ("zh", LEFT_OF_CAR, "小汽车的右边有一个红色的球和一棵绿色的树。", False),
        ("zh", LEFT_OF_CAR, "小汽车的左边什么都没有。", False),
        ("en", LEFT_OF_CAR, "A red ball and a green tree.", True),
        ("en", LEFT_OF_CAR, "The ball and the tree are to the left of the car.", True),
        ("en", LEFT_OF_CAR, "On its left there is a red ball and a green tree.", True),
        ("en", LEFT_OF_CAR, "To the left of the car there is a red ball, a green tree and a star.", False),
        ("en", LEFT_OF_CAR, "A green ball and a red tree.", False),
        ("en", LEFT_OF_CAR, "Nothing.", False),
        ("zh", NOTHING, "什么都没有", True),
        ("zh", NOTHING, "小汽车的上面没有东西。", True),
        ("zh", NOTHING, "小汽车的上面有一个球。", False),
        ("en", NOTHING, "There is nothing above the blue car.", True),
        ("en", NOTHING, "Nothing", True),
        ("en", NOTHING, "There is nothing below the car.", False),
        ("en", NOTHING, "A red ball.", False),
        ("zh", IS_LEFT, "是的，球在小汽车的左边。", True),
        ("zh", IS_LEFT, "是", True),
        ("zh", IS_LEFT, "小汽车在球的右边", True),
        ("zh", IS_LEFT, "不是，球在小汽车的右边。", False),
        ("zh", IS_LEFT, "是的，球在小汽车的右边。", False),
        ("zh", IS_LEFT, "小汽车在球的左边", False),
        ("en", IS_LEFT, "Yes", True),
        ("en", IS_LEFT, "Yes, that's right.", True),
        ("en", IS_LEFT, "The ball is left of the car.", True),
        ("en", IS_LEFT, "The car is to the left of the ball.", False),
        ("en", IS_LEFT, "No.", False),
        ("zh", IS_RIGHT, "不是，球在小汽车的左边。", True),
        ("zh", IS_RIGHT, "不是", True),
        ("zh", IS_RIGHT, "球在左边", True),
        ("zh", IS_RIGHT, "是的", False),
        ("en", IS_RIGHT, "No, it is on the left.", True),
        ("en", IS_RIGHT, "No, the ball is not to the right of the car.", True),
        ("en", IS_RIGHT, "No, the ball is above the car.", False),
        ("en", IS_RIGHT, "Yes, the ball is to the right of the car.", False),
        ("zh", NOTHING, "图片中没有蓝色的小汽车。", False),
        ("zh", NOTHING, "没有。", True),
        ("en", NOTHING, "There is no blue car in the picture.", False),
        ("en", NOTHING, "I do not see a blue car.", False),
        ("en", NOTHING, "There is not anything above the blue car.", True),
    ],
)
def test_grading_sides(language: Language, facts: Facts, answer: str, right: bool) -> None:
    assert is_correct(example(language, facts), answer) is right

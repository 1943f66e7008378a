"""Answers are graded against the facts of their question."""

import pytest

from tiny.grading import is_correct
from tiny.words.sentences import Language
from visualglm.scenes import REGIONS
from visualglm.scenes.facts import Example, Facts
from visualglm.scenes.vocabulary import NOUNS, name_region

LANGUAGES = ("zh", "en")
BALL, CAR = ("red", "ball", "top left"), ("blue", "car", "right")


def example(language: Language, facts: Facts) -> Example:
    """Return an example in which only the facts matter."""
    return Example("any", language, (), "", "", facts)


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "蓝色。", True),
        ("zh", "是蓝的", True),
        ("zh", "这是一辆蓝色小汽车。", True),
        ("zh", "小汽车是红色的。", False),
        ("zh", "小汽车是蓝色和红色的。", False),
        ("zh", "小汽车不是蓝色的。", False),
        ("zh", "球是蓝色的。", False),
        ("zh", "图片中没有小汽车。", False),
        ("en", "Blue", True),
        ("en", "It's a blue car.", True),
        ("en", "The car is red.", False),
        ("en", "The car is blue or red.", False),
        ("en", "The car is not blue.", False),
        ("en", "The ball is blue.", False),
    ],
)
def test_grading_colors(language: Language, answer: str, right: bool) -> None:
    assert is_correct(example(language, Facts("colour", "blue", "car", things=(CAR,))), answer) is right


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "左上角", True),
        ("zh", "球在图片的左上方。", True),
        ("zh", "球在左边。", False),
        ("zh", "球在上方。", False),
        ("zh", "球在左边和上方。", False),
        ("zh", "球不在左上角。", False),
        ("zh", "小汽车在左上角。", False),
        ("zh", "蓝色的球在左上角。", False),
        ("en", "In the top left corner.", True),
        ("en", "The red ball is at the top-left.", True),
        ("en", "The ball is in the upper left corner of the picture.", True),
        ("en", "The ball is on the left.", False),
        ("en", "The ball is at the top.", False),
        ("en", "The ball is in the top right corner.", False),
        ("en", "The ball isn't in the top left corner.", False),
        ("en", "The car is in the top left corner.", False),
    ],
)
def test_grading_regions(language: Language, answer: str, right: bool) -> None:
    assert is_correct(example(language, Facts("where", "top left", "ball", things=(BALL,))), answer) is right


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_region_is_distinguished(language: Language) -> None:
    phrases = {name: name_region(language, name) for name in REGIONS}
    for name in REGIONS:
        asked = example(language, Facts("where", name, "ball", things=(("red", "ball", name),)))
        assert [region for region, phrase in phrases.items() if is_correct(asked, phrase)] == [name]


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "一个红球，一辆蓝色汽车", True),
        ("zh", "左上角有一个红色的球，右边有一辆蓝色的小汽车。", True),
        ("zh", "图片中有一个红色的球。", False),
        ("zh", "图片中有一个蓝色的球和一辆红色的小汽车。", False),
        ("zh", "图片中有一个红色的球、一辆蓝色的小汽车和一棵树。", False),
        ("zh", "图片中有一个红色的球、一个红色的球和一辆蓝色的小汽车。", False),
        ("zh", "图片中有一个红色的球和一辆蓝色的小汽车。红色的球在右边，蓝色的小汽车在右边。", False),
        ("zh", "图片中没有红色的球和蓝色的小汽车。", False),
        ("zh", "图片中有一个球和一辆小汽车。", False),
        ("en", "A blue car and a red ball.", True),
        ("en", "There is a red circle at the top left and a blue car on the right.", True),
        ("en", "There is a red ball in the picture.", False),
        ("en", "There is a blue ball and a red car in the picture.", False),
        ("en", "There is a red ball, a blue car and a star in the picture.", False),
        ("en", "There is a red ball, a red ball and a blue car in the picture.", False),
        ("en", "There is a red ball and a blue car. The car is in the middle.", False),
        ("en", "There is no red ball and no blue car.", False),
    ],
)
def test_grading_things(language: Language, answer: str, right: bool) -> None:
    assert is_correct(example(language, Facts("things", things=(BALL, CAR))), answer) is right


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "3", True),
        ("zh", "有3个。", True),
        ("zh", "一共三个球", True),
        ("zh", "三个三角形", False),
        ("zh", "图片中有两个球。", False),
        ("zh", "图片中没有球。", False),
        ("zh", "两个或三个", False),
        ("zh", "13个", False),
        ("en", "3", True),
        ("en", "There are 3 balls.", True),
        ("en", "Three", True),
        ("en", "There are three boxes.", False),
        ("en", "There is a ball.", False),
        ("en", "There are two or three balls.", False),
        ("en", "There are no balls.", False),
        ("en", "13", False),
    ],
)
def test_grading_counts(language: Language, answer: str, right: bool) -> None:
    assert is_correct(example(language, Facts("count", 3, "ball")), answer) is right


@pytest.mark.parametrize("kind", ["triangle", "cross"])
def test_a_name_that_holds_a_number_is_no_number(kind: str) -> None:
    assert is_correct(example("zh", Facts("count", 1, kind)), f"图片中有一个{NOUNS[kind].zh}。")


@pytest.mark.parametrize(
    ("language", "answer", "there"),
    [
        ("zh", "有。", True),
        ("zh", "有，图片中有一个球。", True),
        ("zh", "是的", True),
        ("zh", "没有。", False),
        ("zh", "图片里没有球。", False),
        ("zh", "不存在", False),
        ("zh", "有，图片中没有球。", None),
        ("zh", "有，图片中有一辆小汽车。", None),
        ("en", "Yes.", True),
        ("en", "Yes, there is a ball.", True),
        ("en", "There is a ball.", True),
        ("en", "No.", False),
        ("en", "There isn't a ball.", False),
        ("en", "Yes, there is no ball.", None),
        ("en", "Yes, there is a car.", None),
        ("en", "Maybe", None),
    ],
)
def test_grading_existence(language: Language, answer: str, there: bool | None) -> None:
    yes = example(language, Facts("exists", True, "ball", things=(BALL,)))
    no = example(language, Facts("exists", False, "ball"))
    assert is_correct(yes, answer) is (there is True)
    assert is_correct(no, answer) is (there is False)


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "没有球。", True),
        ("zh", "球是红色的。", False),
        ("zh", "球在左边。", False),
        ("zh", "图片中没有小汽车。", False),
        ("en", "I see no ball.", True),
        ("en", "The ball is red.", False),
        ("en", "The ball is on the left, not on the right.", False),
        ("en", "There is no car in the picture.", False),
    ],
)
def test_grading_absence(language: Language, answer: str, right: bool) -> None:
    assert is_correct(example(language, Facts("exists", False, "ball")), answer) is right


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "我没看到图，请给我一张图片。", True),
        ("zh", "图片中有一个球。", False),
        ("en", "There is no picture.", True),
        ("en", "The picture shows a ball.", False),
    ],
)
def test_grading_questions_without_an_image(language: Language, answer: str, right: bool) -> None:
    assert is_correct(example(language, Facts("topic", "no picture")), answer) is right


IS_BLUE = Facts("colour", "blue", "car", things=(CAR,), claim="blue")
IS_RED = Facts("colour", "blue", "car", things=(CAR,), claim="red")
IS_TOP_LEFT = Facts("where", "top left", "ball", things=(BALL,), claim="top left")
IS_BOTTOM = Facts("where", "top left", "ball", things=(BALL,), claim="bottom")


@pytest.mark.parametrize(
    ("language", "facts", "answer", "right"),
    [
        ("zh", IS_BLUE, "是的", True),
        ("zh", IS_BLUE, "对，小汽车是蓝色的。", True),
        ("zh", IS_BLUE, "是蓝色的", True),
        ("zh", IS_BLUE, "不是", False),
        ("zh", IS_BLUE, "是的，小汽车是红色的。", False),
        ("zh", IS_RED, "不是，小汽车是蓝色的。", True),
        ("zh", IS_RED, "不是红色的，是蓝色的", True),
        ("zh", IS_RED, "是蓝色的", True),
        ("zh", IS_RED, "是的，小汽车是蓝色的。", False),
        ("zh", IS_RED, "不是，小汽车是绿色的。", False),
        ("en", IS_BLUE, "Yes.", True),
        ("en", IS_BLUE, "Yes, it's blue.", True),
        ("en", IS_BLUE, "It is not blue.", False),
        ("en", IS_RED, "No.", True),
        ("en", IS_RED, "No, it is blue.", True),
        ("en", IS_RED, "It isn't red.", True),
        ("en", IS_RED, "No, the car is green.", False),
        ("en", IS_RED, "Yes, the car is red.", False),
        ("zh", IS_TOP_LEFT, "是的，球在左上角。", True),
        ("zh", IS_TOP_LEFT, "在", True),
        ("zh", IS_TOP_LEFT, "不在", False),
        ("zh", IS_BOTTOM, "不是，球在左上角。", True),
        ("zh", IS_BOTTOM, "球不在下方，在左上角", True),
        ("zh", IS_BOTTOM, "是的，球在下方。", False),
        ("en", IS_TOP_LEFT, "Yes", True),
        ("en", IS_BOTTOM, "No, it is in the upper left corner.", True),
        ("en", IS_BOTTOM, "No, the ball is on the left.", False),
    ],
)
def test_grading_claims(language: Language, facts: Facts, answer: str, right: bool) -> None:
    assert is_correct(example(language, facts), answer) is right


DETAILED = Facts("things", things=(BALL, CAR), sizes=("small", "large"), largest=(("blue", "car"),))
AT_TOP_LEFT = Facts("things", things=(BALL,), region="top left", sizes=("small",))
EMPTY = Facts("things", region="right")


@pytest.mark.parametrize(
    ("language", "facts", "answer", "right"),
    [
        (
            "zh",
            DETAILED,
            "一共有两个物体。一个小的红色的球在左上角，一辆大的蓝色的小汽车在右边。最大的是蓝色的小汽车。",
            True,
        ),
        ("zh", DETAILED, "左上角有一个红色的小球，右边是一辆蓝色的大汽车。", True),
        ("zh", DETAILED, "图片中一共有三个物体。一个红色的球在左上角，一辆蓝色的小汽车在右边。", False),
        ("zh", DETAILED, "一个大的红色的球在左上角，一辆蓝色的小汽车在右边。", False),
        ("zh", DETAILED, "一个红色的球在左上角，一辆蓝色的小汽车在右边。最大的是红色的球。", False),
        ("zh", DETAILED, "左上角有一个红色的球，左上角还有一个红色的球，右边有一辆蓝色的小汽车。", False),
        ("zh", DETAILED, "一个红色的球在左上角，一辆蓝色的小汽车在左上角。", False),
        ("zh", DETAILED, "有两个红色的球和一辆蓝色的小汽车。", False),
        ("en", DETAILED, "Two objects: a small red ball in the upper left, and on the right a big blue car.", True),
        ("en", DETAILED, "There is a red ball at the top left. On the right, there is a blue car.", True),
        ("en", DETAILED, "A large red ball is in the top left corner, and a blue car is on the right.", False),
        ("en", DETAILED, "There are three objects. A red ball and a blue car.", False),
        ("en", DETAILED, "A red ball and a blue car. The largest is the red ball.", False),
        ("en", DETAILED, "On the right there is a red ball and in the top left corner a blue car.", False),
        ("zh", AT_TOP_LEFT, "一个红色的球", True),
        ("zh", AT_TOP_LEFT, "右边有一个红色的球。", False),
        ("zh", AT_TOP_LEFT, "左上角什么都没有。", False),
        ("en", AT_TOP_LEFT, "There is a red ball in the top left corner.", True),
        ("en", AT_TOP_LEFT, "There is a red ball and a blue car in the top left corner.", False),
        ("zh", EMPTY, "右边什么都没有。", True),
        ("zh", EMPTY, "右边有一个球。", False),
        ("en", EMPTY, "Nothing.", True),
        ("en", EMPTY, "There is a red ball on the right.", False),
    ],
)
def test_grading_descriptions(language: Language, facts: Facts, answer: str, right: bool) -> None:
    assert is_correct(example(language, facts), answer) is right


@pytest.mark.parametrize("language", LANGUAGES)
def test_further_names_are_understood(language: Language) -> None:
    for kind, noun in NOUNS.items():
        thing = ("red", kind, "top")
        for other in noun.zh_others if language == "zh" else noun.en_others:
            answer = f"有一个红色的{other}。" if language == "zh" else f"There is a red {other}."
            assert is_correct(example(language, Facts("things", things=(thing,))), answer), other

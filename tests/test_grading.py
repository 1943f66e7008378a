import pytest

from tiny.asking.facts import Example, Facts
from tiny.grading import is_right
from tiny.words.vocabulary import NOUNS, REGION_NAMES, Language

LANGUAGES = ("zh", "en")
BALL, CAR = ("red", "ball", "top left"), ("blue", "car", "right")


def example(language: Language, facts: Facts) -> Example:
    """A question of which only the facts matter."""
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
def test_grading_colours(language: Language, answer: str, right: bool) -> None:
    assert is_right(example(language, Facts("colour", "blue", "car", things=(CAR,))), answer) is right


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
def test_grading_places(language: Language, answer: str, right: bool) -> None:
    assert is_right(example(language, Facts("where", "top left", "ball", things=(BALL,))), answer) is right


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_region_is_told_from_every_other(language: Language) -> None:
    column = LANGUAGES.index(language)
    phrases = {name: phrases[column] for name, phrases in REGION_NAMES.items()}
    for name in REGION_NAMES:
        asked = example(language, Facts("where", name, "ball", things=(("red", "ball", name),)))
        assert [place for place, phrase in phrases.items() if is_right(asked, phrase)] == [name]


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
    assert is_right(example(language, Facts("things", things=(BALL, CAR))), answer) is right


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
    assert is_right(example(language, Facts("count", 3, "ball")), answer) is right


@pytest.mark.parametrize("kind", ["triangle", "cross"])
def test_a_name_that_holds_a_number_is_no_number(kind: str) -> None:
    assert is_right(example("zh", Facts("count", 1, kind)), f"图片中有一个{NOUNS[kind].zh}。")


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
    assert is_right(yes, answer) is (there is True)
    assert is_right(no, answer) is (there is False)


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
    assert is_right(example(language, Facts("exists", False, "ball")), answer) is right


@pytest.mark.parametrize(
    ("language", "answer", "right"),
    [
        ("zh", "我没看到图，请给我一张图片。", True),
        ("zh", "图片中有一个球。", False),
        ("en", "There is no picture.", True),
        ("en", "The picture shows a ball.", False),
    ],
)
def test_grading_talk_without_a_picture(language: Language, answer: str, right: bool) -> None:
    assert is_right(example(language, Facts("topic", "no picture")), answer) is right


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
    assert is_right(example(language, facts), answer) is right


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
    assert is_right(example(language, facts), answer) is right


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
    assert is_right(example(language, facts), answer) is right


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
    assert is_right(example(language, facts), answer) is right


@pytest.mark.parametrize("language", LANGUAGES)
def test_further_names_are_understood(language: Language) -> None:
    for kind, noun in NOUNS.items():
        thing = ("red", kind, "top")
        for other in noun.zh_others if language == "zh" else noun.en_others:
            answer = f"有一个红色的{other}。" if language == "zh" else f"There is a red {other}."
            assert is_right(example(language, Facts("things", things=(thing,))), answer), other

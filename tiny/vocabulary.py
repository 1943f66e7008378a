"""What things, colours, places and numbers are called in Chinese and English."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]


@dataclass(frozen=True)
class Noun:
    """The names of one kind.

    Attributes:
        zh, measure: the Chinese noun and its measure word.
        en, plural: the English noun, singular and plural.
        zh_others, en_others: further names that people use, the English ones regular in the plural.
    """

    zh: str
    measure: str
    en: str
    plural: str
    zh_others: tuple[str, ...] = ()
    en_others: tuple[str, ...] = ()


NOUNS = {
    "ball": Noun("球", "个", "ball", "balls", ("圆球",), ("circle",)),
    "box": Noun("方块", "个", "box", "boxes", ("正方形",), ("square",)),
    "triangle": Noun("三角形", "个", "triangle", "triangles", ("三角",)),
    "star": Noun("星星", "颗", "star", "stars", ("五角星",)),
    "heart": Noun("爱心", "颗", "heart", "hearts"),
    "ring": Noun("圆环", "个", "ring", "rings"),
    "cross": Noun("十字", "个", "cross", "crosses", ("十字形",)),
    "moon": Noun("月牙", "个", "moon", "moons", ("月亮",), ("crescent",)),
    "house": Noun("房子", "座", "house", "houses", ("房屋",)),
    "car": Noun("小汽车", "辆", "car", "cars", ("汽车",), ("automobile",)),
    "tree": Noun("树", "棵", "tree", "trees"),
    "fish": Noun("鱼", "条", "fish", "fish", ("鱼儿",)),
}

COLOUR_NAMES = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "white": "白色",
    "black": "黑色",
}

REGION_NAMES = {  # region -> Chinese, English
    "top left": ("左上角", "in the top left corner"),
    "top": ("上方", "at the top"),
    "top right": ("右上角", "in the top right corner"),
    "left": ("左边", "on the left"),
    "centre": ("中间", "in the middle"),
    "right": ("右边", "on the right"),
    "bottom left": ("左下角", "in the bottom left corner"),
    "bottom": ("下方", "at the bottom"),
    "bottom right": ("右下角", "in the bottom right corner"),
}

ZH_NUMBERS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")
EN_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def name_colour(language: Language, colour: str) -> str:
    """红色 | red"""
    return COLOUR_NAMES[colour] if language == "zh" else colour


def name_region(language: Language, place: str) -> str:
    """左上角 | in the top left corner"""
    return REGION_NAMES[place][0 if language == "zh" else 1]


def name_kind(language: Language, kind: str, count: int = 1) -> str:
    """球 | ball, or balls for any count but 1"""
    noun = NOUNS[kind]
    if language == "zh":
        return noun.zh
    return noun.en if count == 1 else noun.plural


def name_thing(language: Language, kind: str, colour: str | None = None, count: int = 1) -> str:
    """红色的球 | red ball; without a colour: 球 | ball"""
    return add_colour(language, name_kind(language, kind, count), colour)


def name_one(language: Language, kind: str, colour: str | None = None) -> str:
    """一个红色的球 | a red ball"""
    name = name_thing(language, kind, colour)
    return f"一{NOUNS[kind].measure}{name}" if language == "zh" else add_article(name)


def name_count(language: Language, count: int, kind: str) -> str:
    """两个球 | two balls, for a count from 0 to 10"""
    noun = name_kind(language, kind, count)
    if language == "zh":
        return f"{ZH_NUMBERS[count]}{NOUNS[kind].measure}{noun}"
    return f"{EN_NUMBERS[count]} {noun}"


def add_colour(language: Language, noun: str, colour: str | None) -> str:
    """红色的球 | red ball, for any noun; the bare noun without a colour"""
    if colour is None:
        return noun
    return f"{COLOUR_NAMES[colour]}的{noun}" if language == "zh" else f"{colour} {noun}"


def add_article(name: str) -> str:
    """a red ball, an orange ball"""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def join_list(language: Language, parts: list[str]) -> str:
    """甲、乙和丙 | A, B and C"""
    *first, last = parts
    if not first:
        return last
    return ("、".join(first) + "和" + last) if language == "zh" else ", ".join(first) + " and " + last

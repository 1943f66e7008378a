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
    "ball": Noun("球", "个", "ball", "balls", ("圆球", "圆", "圆形", "皮球"), ("circle", "disc", "sphere")),
    "box": Noun("方块", "个", "box", "boxes", ("正方形", "方形", "箱子", "盒子"), ("square", "cube", "block")),
    "triangle": Noun("三角形", "个", "triangle", "triangles", ("三角",)),
    "star": Noun("星星", "颗", "star", "stars", ("五角星", "星", "星形")),
    "heart": Noun("爱心", "颗", "heart", "hearts", ("心形", "心", "桃心"), ("heart shape",)),
    "ring": Noun("圆环", "个", "ring", "rings", ("环", "圈", "圆圈", "环形"), ("hoop",)),
    "cross": Noun("十字", "个", "cross", "crosses", ("十字形", "十字架", "加号"), ("plus sign", "plus")),
    "moon": Noun("月牙", "个", "moon", "moons", ("月亮", "弯月", "新月"), ("crescent", "crescent moon")),
    "house": Noun("房子", "座", "house", "houses", ("房屋", "屋子", "小屋"), ("home", "cottage", "hut")),
    "car": Noun("小汽车", "辆", "car", "cars", ("汽车", "车", "轿车", "车子"), ("automobile", "vehicle")),
    "tree": Noun("树", "棵", "tree", "trees", ("树木",)),
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
COLOUR_OTHERS = {  # further names that people use: Chinese, English
    "orange": ("橘色", "orange"),
    "purple": ("紫色", "violet"),
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
ZH_REGION_OTHERS = {  # further names that people use
    "top left": ("左上角", "左上方", "左上"),
    "top": ("上方", "上面", "上边", "顶部"),
    "top right": ("右上角", "右上方", "右上"),
    "left": ("左边", "左侧", "左面"),
    "centre": ("中间", "中央", "正中间", "中心", "正中央"),
    "right": ("右边", "右侧", "右面"),
    "bottom left": ("左下角", "左下方", "左下"),
    "bottom": ("下方", "下面", "下边", "底部"),
    "bottom right": ("右下角", "右下方", "右下"),
}
EN_REGION_OTHERS = {
    "top left": ("in the top left corner", "at the top left", "in the upper left", "in the upper left corner"),
    "top": ("at the top", "in the upper part"),
    "top right": ("in the top right corner", "at the top right", "in the upper right", "in the upper right corner"),
    "left": ("on the left", "on the left side", "at the left", "to the left"),
    "centre": ("in the middle", "in the centre", "in the center", "at the centre", "at the center"),
    "right": ("on the right", "on the right side", "at the right", "to the right"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left", "in the lower left corner"),
    "bottom": ("at the bottom", "in the lower part"),
    "bottom right": (
        "in the bottom right corner",
        "at the bottom right",
        "in the lower right",
        "in the lower right corner",
    ),
}

SIDE_NAMES = {  # side -> Chinese, English
    "left": ("左边", "to the left of"),
    "right": ("右边", "to the right of"),
    "above": ("上面", "above"),
    "below": ("下面", "below"),
}
SIDE_OTHERS = {  # further names that people use: Chinese, English
    "left": (("左边", "左侧", "左面", "左方"), ("to the left of", "left of", "on the left of", "on the left side of")),
    "right": (
        ("右边", "右侧", "右面", "右方"),
        ("to the right of", "right of", "on the right of", "on the right side of"),
    ),
    "above": (("上面", "上方", "上边"), ("above", "over", "higher than")),
    "below": (("下面", "下方", "下边"), ("below", "under", "beneath", "underneath", "lower than")),
}
WAY_NAMES = {  # how one thing differs from another: Chinese, English
    "larger": ("大", "larger"),
    "smaller": ("小", "smaller"),
    "largest": ("最大", "the largest"),
    "smallest": ("最小", "the smallest"),
}
SIZE_NAMES = {"small": ("小", "small"), "medium": ("", ""), "large": ("大", "large")}

ZH_NUMBERS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")
EN_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def name_colour(language: Language, colour: str) -> str:
    """红色 | red"""
    return COLOUR_NAMES[colour] if language == "zh" else colour


def name_region(language: Language, place: str) -> str:
    """左上角 | in the top left corner"""
    return REGION_NAMES[place][0 if language == "zh" else 1]


def name_side(language: Language, side: str) -> str:
    """左边 | to the left of, before or after a thing"""
    return SIDE_NAMES[side][0 if language == "zh" else 1]


def name_way(language: Language, way: str) -> str:
    """大 | larger, for a key of WAY_NAMES"""
    return WAY_NAMES[way][0 if language == "zh" else 1]


def name_kind(language: Language, kind: str, count: int = 1) -> str:
    """球 | ball, or balls for any count but 1"""
    noun = NOUNS[kind]
    if language == "zh":
        return noun.zh
    return noun.en if count == 1 else noun.plural


def name_thing(language: Language, kind: str, colour: str | None = None, count: int = 1) -> str:
    """红色的球 | red ball; without a colour: 球 | ball"""
    return add_colour(language, name_kind(language, kind, count), colour)


def name_one(language: Language, kind: str, colour: str | None = None, size: str = "medium") -> str:
    """一个红色的球 | a red ball; with a size that is worth a word: 一个小的红色的球 | a small red ball"""
    name, word = name_thing(language, kind, colour), SIZE_NAMES[size][0 if language == "zh" else 1]
    if language == "zh":
        return f"一{NOUNS[kind].measure}{word + '的' if word else ''}{name}"
    return add_article(f"{word} {name}" if word else name)


def name_count(language: Language, count: int, kind: str | None, colour: str | None = None) -> str:
    """两个球 | two balls, for a count from 0 to 10; without a kind: 两个物体 | two objects"""
    if kind is None:
        noun, measure = ("物体", "个") if language == "zh" else (f"object{'' if count == 1 else 's'}", "")
    else:
        noun, measure = name_kind(language, kind, count), NOUNS[kind].measure
    noun = add_colour(language, noun, colour)
    return f"{ZH_NUMBERS[count]}{measure}{noun}" if language == "zh" else f"{EN_NUMBERS[count]} {noun}"


def make_plural(name: str) -> str:
    """circles, boxes, pluses"""
    return f"{name}es" if name.endswith(("s", "x")) else f"{name}s"


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

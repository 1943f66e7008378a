"""The Chinese and English names of things, colors, regions and numbers, from wordings/names.toml."""

from collections.abc import Sequence
from dataclasses import dataclass

from visualglm.scenes.sentences import Language, read_sentences


@dataclass(frozen=True)
class Noun:
    """The names of one kind.

    Attributes:
        zh, measure: the Chinese noun and its measure word.
        en, plural: the English noun, singular and plural.
        zh_others, en_others: synonyms; the English ones have regular plurals.
    """

    zh: str
    measure: str
    en: str
    plural: str
    zh_others: Sequence[str] = ()
    en_others: Sequence[str] = ()


NAMES = read_sentences("names")
NOUNS = {kind: Noun(**names) for kind, names in NAMES["nouns"].items()}
OBJECT = Noun(**NAMES["object"])


def names_of(language: Language, group: str, key: str) -> list[str]:
    """Return all names of `key` in `group`; answers use the first.

    Args:
        group: "colours", "regions", "sides", "ways" or "sizes".
        key: a color, region, side, way or size.
    """
    names: list[str] = NAMES[group][key][language]
    return names


def name_color(language: Language, color: str) -> str:
    """Return the name of a color: 红色 | red."""
    return names_of(language, "colours", color)[0]


def name_region(language: Language, region: str) -> str:
    """Return the words for a region: 左上角 | in the top left corner."""
    return names_of(language, "regions", region)[0]


def name_side(language: Language, side: str) -> str:
    """Return the words for a side: 左边 | to the left of.

    The reference thing's name precedes these words in Chinese and follows them in English.
    """
    return names_of(language, "sides", side)[0]


def name_way(language: Language, way: str) -> str:
    """Return the word for a comparison: 大 | larger, or 最大 | the largest."""
    return names_of(language, "ways", way)[0]


def name_kind(language: Language, kind: str | None, count: int = 1) -> str:
    """Return the name of a kind: 球 | ball, or balls for a count other than 1; without a kind 物体 | object."""
    noun = NOUNS[kind] if kind else OBJECT
    if language == "zh":
        return noun.zh
    return noun.en if count == 1 else noun.plural


def name_thing(language: Language, kind: str | None, color: str | None = None, count: int = 1) -> str:
    """Return the name of a thing without article: 红色的球 | red ball; without a color 球 | ball."""
    name = name_kind(language, kind, count)
    if color is None:
        return name
    return f"{name_color(language, color)}{'的' if language == 'zh' else ' '}{name}"


def name_one(language: Language, kind: str, color: str | None = None, size: str = "medium") -> str:
    """Return the name of one thing, with article: 一个红色的球 | a red ball.

    A size that has a word is named: 一个小的红色的球 | a small red ball.
    """
    name, (word,) = name_thing(language, kind, color), names_of(language, "sizes", size)
    if language == "zh":
        return f"一{NOUNS[kind].measure}{word + '的' if word else ''}{name}"
    return add_article(f"{word} {name}" if word else name)


def name_count(language: Language, count: int, kind: str | None, color: str | None = None) -> str:
    """Return the name of 0 to 10 things: 两个球 | two balls; without a kind 两个物体 | two objects."""
    number, name = NAMES["numbers"][language][count], name_thing(language, kind, color, count)
    measure = (NOUNS[kind] if kind else OBJECT).measure if language == "zh" else " "
    return f"{number}{measure}{name}"


def make_plural(name: str) -> str:
    """Return the plural of an English name: circles, boxes, pluses."""
    return f"{name}es" if name.endswith(("s", "x")) else f"{name}s"


def add_article(name: str) -> str:
    """Return an English name with its indefinite article: a red ball, an orange ball."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def join_list(language: Language, parts: list[str]) -> str:
    """Return the parts joined to a list: 甲、乙和丙 | A, B and C."""
    comma, last = ("、", "和") if language == "zh" else (", ", " and ")
    return last.join([comma.join(parts[:-1]), parts[-1]] if parts[1:] else parts)

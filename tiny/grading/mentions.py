"""The words of meaning in a text: kinds, colours, regions, numbers, sizes and sides."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from tiny.words.sentences import Language
from tiny.words.vocabulary import NAMES, NOUNS, make_plural

ZH_SIDES = {"left": "左", "right": "右", "above": "上", "below": "下"}
EN_SIDES = {
    "left": r"left(?:[ -]hand)?(?: side)?(?: of)",
    "right": r"right(?:[ -]hand)?(?: side)?(?: of)",
    "above": "above|over|on top of|higher than",
    "below": "below|under|beneath|underneath|lower than",
}
ZH_OTHER_COLOURS = {"orange": "橘黄|橘红|橙黄", "purple": "紫罗兰", "black": "漆黑", "white": "雪白"}
EN_OTHER_COLOURS = {"purple": "violet"}


@dataclass(frozen=True)
class Mention:
    """A word of meaning in a text; every field that it does not speak of is None.

    Attributes:
        kind, colour, region, number: what it names; a colour right before a kind belongs to it.
        size: "small" or "large", of this kind.
        side: of which side of this kind it speaks, as in 球的左边 | to the left of the ball.
        listed: whether the kind is brought up as one more: 一个球 | a ball.
        start, end: where it stands in the text.
    """

    kind: str | None = None
    colour: str | None = None
    region: str | None = None
    number: int | None = None
    size: str | None = field(default=None, compare=False)
    side: str | None = field(default=None, compare=False)
    listed: bool = field(default=False, compare=False)
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


def is_negative(language: Language, text: str) -> bool:
    """Whether a lower-case text denies something."""
    pattern = (
        r"没|不|无|非" if language == "zh" else r"\b(no|nope|not|none|nothing|neither|cannot|without|isnt)\b|n['’]t"
    )
    return re.search(pattern, text) is not None


def find_mentions(language: Language, text: str) -> Iterator[Mention]:
    """What a lower-case text speaks of, in order."""
    patterns = _patterns(language)
    for match in _scanner(language).finditer(text):
        words = {group.rstrip("_"): word for group, word in match.groupdict().items() if word}
        found = {
            group: next(value for value, pattern in patterns[group] if re.fullmatch(pattern, word))
            for group, word in words.items()
            if group in patterns
        }
        number = int(found["number"]) if "number" in found else None
        yield Mention(
            found.get("kind"),
            found.get("colour"),
            found.get("region"),
            number,
            found.get("size"),
            found.get("side"),
            _follows_article(language, text, match.start()),
            *match.span(),
        )


def _follows_article(language: Language, text: str, start: int) -> bool:
    if language == "zh":
        return re.search("一[个颗座辆棵条只幢栋株轮枚]$", text[max(0, start - 2) : start]) is not None
    return re.search(r"\b(an?|one) $", text[max(0, start - 4) : start]) is not None


@cache
def _scanner(language: Language) -> re.Pattern[str]:
    """One expression for all mentions; kinds come first, for 三角形 holds a number and 十字 is none."""
    either = {group: "|".join(pattern for _, pattern in pairs) for group, pairs in _patterns(language).items()}
    kind, colour, region, number, size, side = either.values()
    if language == "zh":
        return re.compile(
            rf"(?:(?P<size>{size})的?(?=(?:{colour})|(?:{kind})))??"
            rf"(?:(?P<colour>{colour})(?:的|\s)*)?(?:(?P<size_>{size})的?)??(?P<kind>{kind})(?:的(?P<side>{side}))?"
            rf"|[它其]的?(?P<side_>{side})|(?P<region>{region})"
            rf"|(?<!明)(?P<colour_>{colour})(?=色|的|[，。、！,.]|$)"
            rf"|(?<!第)(?<!哪)(?P<number>{number})(?![共起些下样定般直])"
        )
    size, thing = f"(?P<size>{size})", f"(?:(?P<colour>{colour})(?:[ -]colou?red)?,? )?(?P<kind>{kind})"
    return re.compile(
        rf"\b(?:(?:(?P<side>{side}) )?(?:the )?(?:{size},? )?{thing}"
        rf"|(?P<side_>{side}) (?:it|them)|(?<!that's )(?<!that is )(?<!you're )(?<!are )(?P<region>{region})"
        rf"|(?P<colour_>{colour})|(?P<number>{number}))\b"
    )


@cache
def _patterns(language: Language) -> dict[str, list[tuple[str, str]]]:
    """For each group of the scanner its (meaning, expression) pairs, longer words before shorter ones."""
    if language == "zh":
        kinds = [(kind, name) for kind, noun in NOUNS.items() for name in (noun.zh, *noun.zh_others)]
        colours = [(colour, f"(?:{names['zh'][0][0]}色?)") for colour, names in NAMES["colours"].items()]
        colours = [*((colour, f"(?:(?:{names})色?)") for colour, names in ZH_OTHER_COLOURS.items()), *colours]
        colours.append(("orange", "橘色?"))
        numbers = [
            *((str(number), word) for number, word in enumerate(NAMES["numbers"]["zh"])),
            ("2", "二"),
            ("2", "俩"),
        ]
        sizes = [("small", "小"), ("large", "大")]
        sides = [(side, f"(?:正?{word}[边侧面方])") for side, word in ZH_SIDES.items()]
    else:
        kinds = [(kind, name) for kind in NOUNS for name in _list_english(kind)]
        colours = [*((colour, colour) for colour in NAMES["colours"]), *EN_OTHER_COLOURS.items()]
        numbers = [(str(number), word) for number, word in enumerate(NAMES["numbers"]["en"])]
        sizes = [("small", "small|little|tiny"), ("large", "large|big|huge")]
        sides = [(side, f"(?:{words})") for side, words in EN_SIDES.items()]
    numbers += [(str(number), rf"(?<!\d){number}(?!\d)") for number in range(11)]
    kinds.sort(key=lambda pair: -len(pair[1]))
    return {
        "kind": kinds,
        "colour": colours,
        "region": _region_patterns(language),
        "number": numbers,
        "size": sizes,
        "side": sides,
    }


def _list_english(kind: str) -> list[str]:
    noun = NOUNS[kind]
    return [noun.en, noun.plural, f"{noun.plural}es", *noun.en_others, *map(make_plural, noun.en_others)]


def _region_patterns(language: Language) -> list[tuple[str, str]]:
    """Corners first: 左上角 is neither 左边 nor 上方, and the top left is neither the top nor the left."""
    if language == "zh":
        words = {"left": "左", "right": "右", "top": "[上顶]", "bottom": "[下底]", "centre": "正?中"}
        ends = {"centre": "[间央心部]"}
    else:
        words = {"left": "left", "right": "right", "top": "(?:top|upper)", "bottom": "(?:bottom|lower)(?! than)"}
        words["centre"], ends = "(?:middle|centre|center|central)", {}
    patterns = []
    for place in sorted(NAMES["regions"], key=lambda place: -len(place.split())):
        row, _, column = place.partition(" ")
        if column:
            gap = "" if language == "zh" else "[ -]"
            pair = (words[row], words[column])
            patterns.append((place, f"(?:{gap.join(pair)}|{gap.join(reversed(pair))})"))
        else:
            end = ends.get(place, "[边侧面方部端]") if language == "zh" else ""
            patterns.append((place, words[row] + end))
    return patterns

"""Whether an answer is right, judged by what it says and not by how it says it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from tiny.smalltalk import topics_of
from tiny.vocabulary import COLOUR_NAMES, EN_NUMBERS, NOUNS, REGION_NAMES, ZH_NUMBERS, Language

Aspect = Literal["things", "colour", "where", "count", "exists", "topic"]


@dataclass(frozen=True)
class Facts:
    """What a right answer must say.

    Attributes:
        aspect: what was asked.
        value: the colour, region, count, whether it exists, or the name of the topic; None for things.
        kind, colour: what it was asked about; None where the question left it open.
        things: (colour, kind, region) of every thing that the answer may name, in reading order.
    """

    aspect: Aspect
    value: str | int | bool | None = None
    kind: str | None = None
    colour: str | None = None
    things: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Example:
    """One question with its right answer.

    Attributes:
        kind: the kind of question.   language: "zh" or "en".
        history: earlier (question, answer) pairs about the same picture, oldest first.
        question, answer: the question and the one answer to learn.
        facts: what any right answer must say.
    """

    kind: str
    language: Language
    history: tuple[tuple[str, str], ...]
    question: str
    answer: str
    facts: Facts


@dataclass(frozen=True)
class Mention:
    """A word of meaning in an answer; every field that it does not speak of is None."""

    kind: str | None = None
    colour: str | None = None
    region: str | None = None
    number: int | None = None


def is_right(example: Example, answer: str) -> bool:
    """Whether `answer` says what the facts of `example` demand and nothing that contradicts them."""
    facts, language, text = example.facts, example.language, answer.lower()
    if facts.aspect == "topic":
        return re.search(topics_of(language)[str(facts.value)].pattern, text) is not None
    said = list(find_mentions(language, text))
    if facts.kind is not None and {mention.kind for mention in said} - {facts.kind, None}:
        return False  # speaks of something that nobody asked for
    match facts.aspect:
        case "things":
            return not is_negative(language, text) and _names_all(facts, language, text, said)
        case "count":
            return _count_said(language, text, said) == facts.value
        case "exists":
            return _agrees(facts, language, text, said)
        case "colour":
            colours = {mention.colour for mention in said} - {None}
            return colours == {facts.value} and not is_negative(language, text)
    return _places_right(facts, language, text, said)


def _names_all(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Every thing with its colour, none listed twice, no other thing and no wrong place."""
    start = re.split("[。，]" if language == "zh" else "[.;]", text)[0]  # the list; places may follow
    listed = [mention for mention in find_mentions(language, start) if mention.kind]
    if len(listed) != len(set(listed)):
        return False
    named = {(mention.colour, mention.kind) for mention in said if mention.kind and mention.colour}
    expected = {(colour, kind): place for colour, kind, place in facts.things}
    if named != set(expected) or {m.kind for m in said} - {None} != {kind for _, kind in named}:
        return False
    return _places_match(expected, said)


def _places_match(expected: dict[tuple[str, str], str], said: list[Mention]) -> bool:
    """Whether each place goes with its thing: the one before it, or after it in "on the left is a ball"."""
    only = {kind: colour for colour, kind in expected}
    last = ("", "")
    for mention in reversed(said) if said[0].region else said:
        if mention.kind:
            last = (mention.colour or only[mention.kind], mention.kind)
        elif mention.region and mention.region != expected.get(last):
            return False
    return True


def _count_said(language: Language, text: str, said: list[Mention]) -> int | None:
    """The one number in the answer; None if it gives none, or several."""
    numbers = {mention.number for mention in said} - {None}
    if is_negative(language, text):
        return 0 if numbers <= {0} else None
    if not numbers and language == "en" and re.search(r"\ban?\b", text):
        return 1
    return numbers.pop() if len(numbers) == 1 else None


def _agrees(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    """Yes or no as it is, without a contradiction and without a colour that is wrong."""
    colours = {mention.colour for mention in said} - {None}
    if colours - {facts.colour, *(colour for colour, _, _ in facts.things)}:
        return False
    yes = re.match(r"\W*(yes|yeah|there (is|are)\b|i see\b|有|是|对|能|看到)", text) is not None
    no = is_negative(language, text)
    if facts.value:
        return not no and (yes or "有" in text)
    contradicts = re.match(r"\W*(yes|yeah|有|是的|对)", text) or any(mention.region for mention in said)
    return no and not contradicts


def _places_right(facts: Facts, language: Language, text: str, said: list[Mention]) -> bool:
    regions = {mention.region for mention in said} - {None}
    colours = {mention.colour for mention in said} - {None}
    true_colours = {colour for colour, _, _ in facts.things}
    return regions == {facts.value} and colours <= true_colours and not is_negative(language, text)


def is_negative(language: Language, text: str) -> bool:
    """Whether a lower-case text denies something."""
    pattern = r"没|不|无" if language == "zh" else r"\b(no|not|none|nothing|neither|cannot|without)\b|n't"
    return re.search(pattern, text) is not None


def find_mentions(language: Language, text: str) -> Iterator[Mention]:
    """What a lower-case text speaks of, in order; a colour right before a kind belongs to it."""
    patterns = _patterns(language)
    for match in _scanner(language).finditer(text):
        words = {group.rstrip("_"): word for group, word in match.groupdict().items() if word}
        found = {
            group: next(value for value, pattern in patterns[group] if re.fullmatch(pattern, word))
            for group, word in words.items()
        }
        number = int(found["number"]) if "number" in found else None
        yield Mention(found.get("kind"), found.get("colour"), found.get("region"), number)


@cache
def _scanner(language: Language) -> re.Pattern[str]:
    """One expression for all mentions; kinds come first, for 三角形 holds a number and 十字 is none."""
    either = {group: "|".join(pattern for _, pattern in pairs) for group, pairs in _patterns(language).items()}
    kind, colour, region, number = (either[group] for group in ("kind", "colour", "region", "number"))
    if language == "zh":
        return re.compile(
            rf"(?:(?P<colour>{colour})(?:的|\s)*)?(?P<kind>{kind})|(?P<region>{region})"
            rf"|(?<!明)(?P<colour_>{colour})(?=色|的|[，。、！,.]|$)|(?<!第)(?P<number>{number})(?![共起些下样定])"
        )
    return re.compile(
        rf"\b(?:(?:(?P<colour>{colour}) )?(?P<kind>{kind})|(?P<region>{region})"
        rf"|(?P<colour_>{colour})|(?P<number>{number}))\b"
    )


@cache
def _patterns(language: Language) -> dict[str, list[tuple[str, str]]]:
    """For each group of the scanner its (meaning, expression) pairs, longer words before shorter ones."""
    if language == "zh":
        kinds = [(kind, name) for kind, noun in NOUNS.items() for name in (noun.zh, *noun.zh_others)]
        colours = [(colour, f"{name[0]}色?") for colour, name in COLOUR_NAMES.items()]
        numbers = [*((str(number), word) for number, word in enumerate(ZH_NUMBERS)), ("2", "二")]
    else:
        kinds = [
            (kind, name)
            for kind, noun in NOUNS.items()
            for name in (noun.en, noun.plural, *noun.en_others, *(f"{other}s" for other in noun.en_others))
        ]
        colours = [(colour, colour) for colour in COLOUR_NAMES]
        numbers = [(str(number), word) for number, word in enumerate(EN_NUMBERS)]
    numbers += [(str(number), rf"(?<!\d){number}(?!\d)") for number in range(11)]
    kinds.sort(key=lambda pair: -len(pair[1]))
    return {"kind": kinds, "colour": colours, "region": _region_patterns(language), "number": numbers}


def _region_patterns(language: Language) -> list[tuple[str, str]]:
    """Corners first: 左上角 is neither 左边 nor 上方, and the top left is neither the top nor the left."""
    if language == "zh":
        words = {"left": "左", "right": "右", "top": "上", "bottom": "下", "centre": "中"}
        ends = {"centre": "[间央心部]"}
    else:
        words = {"left": "left", "right": "right", "top": "(?:top|upper)", "bottom": "(?:bottom|lower)"}
        words["centre"], ends = "(?:middle|centre|center)", {}
    patterns = []
    for place in sorted(REGION_NAMES, key=lambda place: -len(place.split())):
        row, _, column = place.partition(" ")
        if column:
            gap = "" if language == "zh" else "[ -]"
            pair = (words[row], words[column])
            patterns.append((place, f"(?:{gap.join(pair)}|{gap.join(reversed(pair))})"))
        else:
            end = ends.get(place, "[边侧面方部]") if language == "zh" else ""
            patterns.append((place, words[row] + end))
    return patterns

"""Whether an answer is one of those that somebody accepts for a question of their own.

An answer is right when, letter case, punctuation and white space aside, it equals an accepted answer, or says the same:

* It holds the accepted answer as whole words (English) or characters (Chinese). An accepted answer that is nothing but
  names ("左上角", "two", "a red ball") need not be held: it is enough that the answer names the same.
* It does not deny, unless the accepted answer is itself a denial ("没有", "no", "0").
* Where the accepted answer names colours, regions or numbers, it names exactly those, as digits or words: "left" is not
  met by "in the top left corner", nor "red" by "red and blue"; without a region in the answer the side of a thing, "to
  the left of the car", counts as one. Where the accepted answer is nothing but names, it also
  names exactly those things, and where the question lets one choose among things, the accepted one first.

What the question names ("What is to the left of the blue car?") may be named again.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from tiny.grading.mentions import Mention, find_mentions, is_negative
from tiny.words.sentences import Language

HAN = r"\u3400-\u9fff"
TOKEN = re.compile(rf"[{HAN}]|[^\W_{HAN}]+(?:'[^\W_{HAN}]+)*")
ZH_ALONE = {"左": "左边", "右": "右边", "上": "上边", "下": "下边", "中": "中间"}
SIDE_REGIONS = {"above": "top", "below": "bottom"}
FILLERS = {  # words beside names that add nothing to them
    "zh": re.compile("[的个颗座辆棵条是在有和与共一色角里]"),
    "en": re.compile("an?|and|are|at|corner|in|is|it|it's|of|on|side|the|there|to"),
}


def is_accepted(language: Language, question: str, accepted: Sequence[str], answer: str) -> bool:
    """Whether `answer` is one of the `accepted` answers to `question`, or says the same as one."""
    return any(
        _tokens(one) == _tokens(answer) != "" or says_same(language, question, _clean(one), _clean(answer))
        for one in accepted
    )


def says_same(language: Language, question: str, accepted: str, answer: str) -> bool:
    """Whether `answer` says what `accepted`, both cleaned, says as an answer to `question`."""
    named, asked = (list(find_mentions(language, text)) for text in (accepted, _clean(question)))
    spoken = list(find_mentions(language, answer))
    said = [mention for mention in spoken if not _is_repeated(mention, asked, named)]
    denies = is_negative(language, answer)
    if denies and not (is_negative(language, accepted) or _values(named, "number") == {0}):
        return False
    numbers = _values(said, "number") or ({0} if denies else set())
    if _values(named, "number") not in (set(), numbers):
        return False
    if not _agree(_values(named, "colour"), _values(said, "colour")) or not _agree(_places(named), _places(spoken)):
        return False
    held = _holds(answer, accepted)
    if not _is_names(language, accepted, named):
        return held
    crossed = len(_values(named, "kind")) > 1 and (_pairs(named) != _pairs(said) or _places(named) != set())
    same = _agree(_values(named, "kind"), _values(said, "kind")) and _chooses(asked, named, spoken)
    return same and (held or not crossed)


def _clean(text: str) -> str:
    """The text in lower case and half-width forms; 左 alone is a place only with its 边."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").strip()
    return ZH_ALONE.get(text.strip("。."), text)


def _tokens(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(TOKEN.findall(_clean(text)))


def _holds(answer: str, accepted: str) -> bool:
    """Whether the words or characters of `accepted` stand in `answer` one after another."""
    sought, words = TOKEN.findall(accepted), TOKEN.findall(answer)
    places = range(len(words) - len(sought) + 1)
    return bool(sought) and any(words[place : place + len(sought)] == sought for place in places)


def _is_names(language: Language, accepted: str, named: Sequence[Mention]) -> bool:
    """Whether an accepted answer is nothing but names of colours, regions, numbers and things."""
    if not named or any(mention.size for mention in named):
        return False
    starts, ends = [mention.start for mention in named], [mention.end for mention in named]
    between = (accepted[end:start] for end, start in zip([0, *ends], [*starts, len(accepted)], strict=True))
    return all(FILLERS[language].fullmatch(word) for part in between for word in TOKEN.findall(part))


def _values(mentions: Sequence[Mention], field: Literal["kind", "colour", "region", "number"]) -> set[Any]:
    return {getattr(mention, field) for mention in mentions} - {None}


def _places(mentions: Sequence[Mention]) -> set[str]:
    """The regions, or else the sides of things: "left" is met by "to the left of the car"."""
    sides = {mention.side for mention in mentions if mention.side}
    return _values(mentions, "region") or {SIDE_REGIONS.get(side, side) for side in sides}


def _pairs(mentions: Sequence[Mention]) -> set[tuple[str, str | None]]:
    return {(mention.kind, mention.colour) for mention in mentions if mention.kind}


def _agree(named: set[Any], said: set[Any]) -> bool:
    """Whether the answer names exactly what the accepted answer does, if that names any."""
    return not named or named == said


def _is_repeated(mention: Mention, asked: Sequence[Mention], named: Sequence[Mention]) -> bool:
    """Whether a thing is only named again, as the question has it: it is not what was asked for."""
    if mention.kind is None or mention.kind not in _values(asked, "kind"):
        return False
    if mention.colour is None:
        return mention.kind not in _values(named, "kind")
    return mention in asked and mention not in named


def _chooses(asked: Sequence[Mention], named: Sequence[Mention], spoken: Sequence[Mention]) -> bool:
    """Whether the answer begins with an accepted thing, where the question offers it among others."""
    offered, right = _values(asked, "kind"), _values(named, "kind")
    first = next((mention.kind for mention in spoken if mention.kind), None)
    return not right or not right < offered or first in right

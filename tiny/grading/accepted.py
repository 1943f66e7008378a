"""Whether an answer is one of those that somebody accepts for a question of their own.

An answer is right when, letter case, punctuation and white space aside, it equals an accepted answer, or says the same:

* It holds the accepted answer as whole words (English) or characters (Chinese). An accepted answer that is nothing but
  names ("左上角", "two", "a red ball") need not be held: it is enough that the answer names the same.
* It does not deny, unless the accepted answer is itself a denial ("没有", "no", "0").
* Where the accepted answer names colors, regions or numbers, it names exactly those, as digits or words: "left" is not
  met by "in the top left corner", nor "red" by "red and blue"; without a region in the answer the side of a thing, "to
  the left of the car", counts as one. Where the accepted answer is nothing but names, it also
  names exactly those things, and where the question lets one choose among things, the accepted one first.

What the question names ("What is to the left of the blue car?") may be named again.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from tiny.grading.mentions import Mention, expression, find_mentions, is_negative, strip_mentions, values
from tiny.grading.parsed_answer import list_names
from tiny.words.sentences import Language, read_sentences

HAN = r"\u3400-\u9fff"
TOKEN = re.compile(rf"[{HAN}]|[^\W_{HAN}]+(?:'[^\W_{HAN}]+)*")
REGION_OF_SIDE = {"above": "top", "below": "bottom"}


def is_accepted(language: Language, question: str, accepted: Sequence[str], answer: str) -> bool:
    """Whether `answer` is one of the `accepted` answers to `question`, or says the same as one."""
    question, answer = _clean(question), _clean(answer)
    words = TOKEN.findall(answer)
    return any(
        "".join(TOKEN.findall(one)) == "".join(words) != "" or is_equivalent(language, question, one, answer)
        for one in map(_clean, accepted)
    )


def is_equivalent(language: Language, question: str, accepted: str, answer: str) -> bool:
    """Whether `answer` says what `accepted` says as an answer to `question`, all cleaned."""
    asked, named, spoken = (list(find_mentions(language, text)) for text in (question, accepted, answer))
    said = [mention for mention in spoken if not _is_repeated(mention, asked, named)]
    denies, kinds, places = is_negative(language, answer), values(named, "kind"), _places(named)
    numbers = values(said, "number") or ({0} if denies else set())
    if denies and not (is_negative(language, accepted) or values(named, "number") == {0}):
        return False
    pairs = [(values(named, "number"), numbers), (places, _places(spoken))]
    if not all(_agree(*pair) for pair in (*pairs, (values(named, "color"), values(said, "color")))):
        return False
    sought, words = TOKEN.findall(accepted), TOKEN.findall(answer)
    held = bool(sought) and f" {' '.join(sought)} " in f" {' '.join(words)} "
    if not _is_names(language, accepted, named):
        return held
    crossed = len(kinds) > 1 and (bool(places) or set(list_names(named)) != set(list_names(said)))
    return _agree(kinds, values(said, "kind")) and _chooses(asked, kinds, spoken) and (held or not crossed)


def _clean(text: str) -> str:
    """Return the text in lower case and half-width forms; 左 alone is a place only with its 边."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").strip()
    return str(read_sentences("zh/grading")["alone"].get(text.strip("。."), text))


def _is_names(language: Language, accepted: str, named: Sequence[Mention]) -> bool:
    """Whether an accepted answer is nothing but names of colors, regions, numbers and things."""
    rest = TOKEN.findall(strip_mentions(language, accepted))
    return bool(named) and not values(named, "size") and all(map(expression(language, "filler").fullmatch, rest))


def _places(mentions: Sequence[Mention]) -> set[str]:
    """Return the regions, or else the sides of things: "left" is met by "to the left of the car"."""
    return values(mentions, "region") or {REGION_OF_SIDE.get(side, side) for side in values(mentions, "side")}


def _agree(named: set[Any], said: set[Any]) -> bool:
    """Whether the answer names exactly what the accepted answer does, if that names any."""
    return not named or named == said


def _is_repeated(mention: Mention, asked: Sequence[Mention], named: Sequence[Mention]) -> bool:
    """Whether a thing is only named again, as the question has it: it is not what was asked for."""
    if mention.kind is None or mention.kind not in values(asked, "kind"):
        return False
    if mention.color is None:
        return mention.kind not in values(named, "kind")
    return mention in asked and mention not in named


def _chooses(asked: Sequence[Mention], kinds: set[str], spoken: Sequence[Mention]) -> bool:
    """Whether the answer begins with an accepted thing, where the question offers it among others."""
    first = next((mention.kind for mention in spoken if mention.kind), None)
    return not kinds or not kinds < values(asked, "kind") or first in kinds

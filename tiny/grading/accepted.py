"""Grades an answer against the accepted answers of an external dataset.

An answer is correct if it equals an accepted answer up to case, punctuation and white space, or is equivalent to one:

* It contains the accepted answer as whole words (English) or characters (Chinese). This is not required of an accepted
  answer that consists only of names ("左上角", "two", "a red ball"): naming the same is enough.
* It contains no negation, unless the accepted answer is itself a negation ("没有", "no", "0").
* If the accepted answer names colors, regions or numbers, it names exactly the same ones, as digits or words: "left" is
  not matched by "in the top left corner", nor "red" by "red and blue". If the answer names no region, the side of a
  thing ("to the left of the car") counts as one. If the accepted answer consists only of names, the answer also names
  exactly the same things; and if the question offers a choice among things, it names the accepted one first.

Things named in the question ("What is to the left of the blue car?") may be repeated.
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
    """Check whether `answer` equals one of the `accepted` answers to `question`, or is equivalent to one."""
    question, answer = _clean(question), _clean(answer)
    words = TOKEN.findall(answer)
    return any(
        "".join(TOKEN.findall(one)) == "".join(words) != "" or is_equivalent(language, question, one, answer)
        for one in map(_clean, accepted)
    )


def is_equivalent(language: Language, question: str, accepted: str, answer: str) -> bool:
    """Check whether `answer` means the same as `accepted` in reply to `question`; all texts are normalized."""
    in_question, in_accepted, in_answer = (list(find_mentions(language, text)) for text in (question, accepted, answer))
    new = [mention for mention in in_answer if not _is_repeated(mention, in_question, in_accepted)]
    is_negated, kinds, regions = is_negative(language, answer), values(in_accepted, "kind"), _regions(in_accepted)
    numbers = values(new, "number") or ({0} if is_negated else set())
    if is_negated and not (is_negative(language, accepted) or values(in_accepted, "number") == {0}):
        return False
    pairs = [(values(in_accepted, "number"), numbers), (regions, _regions(in_answer))]
    if not all(_agree(*pair) for pair in (*pairs, (values(in_accepted, "color"), values(new, "color")))):
        return False
    sought, words = TOKEN.findall(accepted), TOKEN.findall(answer)
    contains = bool(sought) and f" {' '.join(sought)} " in f" {' '.join(words)} "
    if not _is_names(language, accepted, in_accepted):
        return contains
    may_be_mispaired = len(kinds) > 1 and (bool(regions) or set(list_names(in_accepted)) != set(list_names(new)))
    same_things = _agree(kinds, values(new, "kind")) and _chooses(in_question, kinds, in_answer)
    return same_things and (contains or not may_be_mispaired)


def _clean(text: str) -> str:
    """Normalize a text to lower case and half-width forms; a lone 左 becomes 左边, which is a region."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").strip()
    return str(read_sentences("zh/grading")["alone"].get(text.strip("。."), text))


def _is_names(language: Language, accepted: str, named: Sequence[Mention]) -> bool:
    """Check whether an accepted answer consists only of names of colors, regions, numbers and things."""
    rest = TOKEN.findall(strip_mentions(language, accepted))
    return bool(named) and not values(named, "size") and all(map(expression(language, "filler").fullmatch, rest))


def _regions(mentions: Sequence[Mention]) -> set[str]:
    """Return the named regions, or else the named sides: "left" is matched by "to the left of the car"."""
    return values(mentions, "region") or {REGION_OF_SIDE.get(side, side) for side in values(mentions, "side")}


def _agree(accepted: set[Any], stated: set[Any]) -> bool:
    """Check whether the answer names exactly the values of the accepted answer, if that names any."""
    return not accepted or accepted == stated


def _is_repeated(mention: Mention, in_question: Sequence[Mention], in_accepted: Sequence[Mention]) -> bool:
    """Check whether a mention only repeats a thing from the question, so that it is not the answer."""
    if mention.kind is None or mention.kind not in values(in_question, "kind"):
        return False
    if mention.color is None:
        return mention.kind not in values(in_accepted, "kind")
    return mention in in_question and mention not in in_accepted


def _chooses(in_question: Sequence[Mention], kinds: set[str], in_answer: Sequence[Mention]) -> bool:
    """Check whether the answer names an accepted thing first, if the question offers it among others."""
    first = next((mention.kind for mention in in_answer if mention.kind), None)
    return not kinds or not kinds < values(in_question, "kind") or first in kinds

"""CHAIR: objects that an answer names although they are not in the image.

Source: https://arxiv.org/abs/1809.02156. The list of objects is given; the script's own rules for English plurals and
for phrases such as "baby bird" are replaced by regular plurals and by the longest phrase of the list.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..answers import Answered
from ..data.records import read_text
from ..errors import EvaluationError
from .metric import Array, Metric, Scores, ratio
from .texts import has_chinese

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "knife": "knives",
}


class ObjectList:
    """Finds the objects of a list in texts.

    Args:
        synonyms: for each object its name, followed by its other names.

    Raises:
        EvaluationError: the list is empty, or a name belongs to two objects.
    """

    def __init__(self, synonyms: Iterable[Sequence[str]]) -> None:
        self.objects: dict[str, str] = {}
        for names in synonyms:
            for name in filter(None, (name.strip().lower() for name in names)):
                if self.objects.setdefault(name, names[0].strip().lower()) != names[0].strip().lower():
                    raise EvaluationError(f"The name {name!r} belongs to two objects. Remove one of them.")
        if not self.objects:
            raise EvaluationError("The list of objects is empty. Give one object a line: its name, then its synonyms.")
        self._forms = {form: name for phrase, name in self.objects.items() for form in spellings(phrase)}
        phrases = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(phrase_pattern, phrases)))

    def mentions(self, text: str) -> list[str]:
        """Return the objects that a text names, in order, each time it names them."""
        return [self._forms[found[0]] for found in self._pattern.finditer(" ".join(text.lower().split()))]


def phrase_pattern(phrase: str) -> str:
    """Return the expression for a phrase: Chinese anywhere, other languages as whole words."""
    return re.escape(phrase) if has_chinese(phrase) else rf"(?<!\w){re.escape(phrase)}(?!\w)"


def spellings(phrase: str) -> list[str]:
    """Return a phrase and, in English, its plural."""
    if has_chinese(phrase):
        return [phrase]
    start, space, word = phrase.rpartition(" ")
    return [phrase, f"{start}{space}{plural(word)}"]


def plural(word: str) -> str:
    """Return the plural of an English word."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if re.search("[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}es" if re.search("(?:s|x|z|ch|sh)$", word) else f"{word}s"


def read_objects(path: Path) -> ObjectList:
    """Read a list of objects: one a line, its name and its synonyms separated by commas.

    Raises:
        EvaluationError: the file cannot be read, or the list is unusable.
    """
    return ObjectList(line.split(",") for line in read_text(path).splitlines() if line.strip())


def chair(objects: ObjectList) -> Metric:
    """Return the metric CHAIR for a list of objects.

    An object is in an image if an accepted answer of the question names it.
    """

    def measure(answered: Sequence[Answered]) -> Array:
        statistics = np.zeros((len(answered), 6))
        for row, answer in zip(statistics, answered, strict=True):
            present = {name for text in answer.question.answers for name in objects.mentions(text)}
            mentioned = objects.mentions(answer.text)
            absent = sum(name not in present for name in mentioned)
            row[:] = absent, len(mentioned), absent > 0, 1, len(present.intersection(mentioned)), len(present)
        return statistics

    return Metric("chair", measure, summarize_chair, main="chair_s", lower_is_better=True)


def summarize_chair(sums: Array) -> Scores:
    """Return the share of named objects that are absent (CHAIRi), of answers that name one (CHAIRs), and the recall.

    The recall is the share of the images' objects that the answers name.
    """
    return {
        "chair_i": ratio(sums[..., 0], sums[..., 1]),
        "chair_s": ratio(sums[..., 2], sums[..., 3]),
        "recall": ratio(sums[..., 4], sums[..., 5]),
    }

"""POPE and MME: questions whose answer is yes or no.

Sources: evaluate.py of https://github.com/RUCAIBox/POPE, and calculation.py of MME (https://arxiv.org/abs/2306.13394).
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..answers import Answered
from .metric import Array, Metric, Scores, ratio
from .texts import has_chinese

CHINESE_NO = re.compile("不|没|沒|否|无|無|非")
NO_WORDS = ("No", "not", "no")
MME_PREFIX = 4  # characters of an answer that MME's script reads
PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse_pope(answer: str) -> str:
    """Return "yes" or "no": "no" if the first sentence has the word No, no or not, as POPE's script decides.

    Chinese answers are "no" if their first sentence has a negation.
    """
    if has_chinese(answer):
        return "no" if CHINESE_NO.search(re.split("[。！!.]", answer)[0]) else "yes"
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if any(word in NO_WORDS for word in words) else "yes"


def parse_mme(answer: str) -> str:
    """Return "yes", "no" or "other", found in the first four characters as in MME's script.

    Chinese answers are read as POPE's are.
    """
    if has_chinese(answer):
        return parse_pope(answer)
    start = answer.strip().lower()[:MME_PREFIX]
    return next((word for word in ("yes", "no") if word in start), "other")


def expects_yes(answered: Answered) -> bool:
    """Return whether the accepted answer of a question is yes."""
    return "yes" in answered.question.answers


def measure_pope(answered: Sequence[Answered]) -> Array:
    """Return statistics [N, 4]: true positives, false positives, true negatives, false negatives."""
    statistics = np.zeros((len(answered), 4))
    for row, answer in zip(statistics, answered, strict=True):
        says_yes, is_yes = parse_pope(answer.text) == "yes", expects_yes(answer)
        row[(0 if is_yes else 1) if says_yes else (3 if is_yes else 2)] = 1
    return statistics


def summarize_pope(sums: Array) -> Scores:
    """Return accuracy, precision, recall, F1 and the share of yes."""
    positive, false_positive, negative, false_negative = np.moveaxis(sums, -1, 0)
    every = sums.sum(axis=-1)
    return {
        "accuracy": ratio(positive + negative, every),
        "precision": ratio(positive, positive + false_positive),
        "recall": ratio(positive, positive + false_negative),
        "f1": ratio(2 * positive, 2 * positive + false_positive + false_negative),
        "yes": ratio(positive + false_positive, every),
    }


def measure_mme(answered: Sequence[Answered]) -> Array:
    """Return statistics [N, 4]: right answers, answers, images with all answers right, images.

    The last two are counted in the first question of an image.
    """
    statistics = np.zeros((len(answered), 4))
    rows_of_image: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, answer in enumerate(answered):
        is_right = parse_mme(answer.text) == ("yes" if expects_yes(answer) else "no")
        statistics[index, :2] = is_right, 1
        rows_of_image[answer.question.kind, answer.question.cluster].append(index)
    for rows in rows_of_image.values():
        statistics[rows[0], 2:] = statistics[rows, 0].all(), 1
    return statistics


def summarize_mme(sums: Array) -> Scores:
    """Return accuracy, accuracy+ (images both of whose questions are answered right), and their sum."""
    accuracy, plus = ratio(sums[..., 0], sums[..., 1]), ratio(sums[..., 2], sums[..., 3])
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": accuracy + plus}


def mme_totals(kinds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return MME's totals: the sums of the scores of the categories of perception and of cognition.

    Args:
        kinds: scores by category; a total is omitted if one of its categories is missing.
    """
    groups = {"perception": PERCEPTION, "cognition": COGNITION}
    return {
        name: sum(kinds[kind]["score"] for kind in group)
        for name, group in groups.items()
        if all(kind in kinds for kind in group)
    }


POPE = Metric("pope", measure_pope, summarize_pope, main="accuracy", is_accuracy=True)
MME = Metric("mme", measure_mme, summarize_mme, main="accuracy", is_accuracy=True)

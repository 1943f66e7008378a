"""Exact match, and VQA accuracy with the official normalization.

Source of VQA accuracy: https://visualqa.org/evaluation.html and its script vqaEval.py.
"""

import re
import string
from collections.abc import Iterable

from .metric import mean_metric
from .texts import FULL_WIDTH_MARKS

NO_MARKS = str.maketrans("", "", string.punctuation + FULL_WIDTH_MARKS)
ENOUGH = 3  # annotators who have to agree with an answer

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBER_WORDS)}}
ARTICLES = ("a", "an", "the")
# The script leaves apostrophes and colons.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")  # the script's expression, whose lookbehind is misspelled
MAX_PERIODS = 32  # the script passes re.UNICODE, which is 32, as the count
COMMA_IN_NUMBER = re.compile(r"\d,\d")

CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def drop_one_apostrophe(word: str) -> Iterable[str]:
    """Yield a word without one of its apostrophes, for each of them."""
    return (word[:index] + word[index + 1 :] for index, letter in enumerate(word) if letter == "'")


CONTRACTIONS = {spelling: word for word in CONTRACTED.split() for spelling in drop_one_apostrophe(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # as the script has it


def normalize_text(text: str) -> str:
    """Return a text in lower case, without punctuation, its blanks collapsed."""
    return " ".join(text.lower().translate(NO_MARKS).split())


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    """Return 1 if an answer equals an accepted one without case and punctuation, else 0."""
    return float(normalize_text(answer) in {normalize_text(text) for text in accepted})


def strip_punctuation(text: str) -> str:
    """Remove or replace punctuation as the official script does."""
    has_number = COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        is_free = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_free or has_number else " ")
    return PERIOD.sub("", result, count=MAX_PERIODS)


def strip_articles(text: str) -> str:
    """Write number words as digits, drop articles, and restore the apostrophes of contractions."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalize_vqa(answer: str) -> str:
    """Return an answer as the official script compares it."""
    return strip_articles(strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))


def vqa_accuracy(answer: str, accepted: tuple[str, ...]) -> float:
    """Return the VQA accuracy of an answer, 0 to 1.

    For each annotator, the accuracy is the number of other annotators with this answer, divided by 3 and at most 1;
    the result is the mean. With no more than three accepted answers, where this cannot reach 1, the result is 1 if the
    answer equals one of them after normalization, else 0.

    Args:
        answer: the answer.
        accepted: the annotators' answers, ten in VQAv2.
    """
    given = normalize_vqa(answer)
    if len(accepted) <= ENOUGH:
        return float(given in {normalize_vqa(text) for text in accepted})
    texts = [strip_punctuation(text) for text in accepted] if len({*accepted}) > 1 else accepted
    matches = sum(text == given for text in texts)
    return sum(min(1.0, (matches - (text == given)) / ENOUGH) for text in texts) / len(texts)


EXACT_MATCH = mean_metric("exact_match", lambda answered: exact_match(answered.text, answered.question.answers))
VQA = mean_metric("vqa", lambda answered: vqa_accuracy(answered.text, answered.question.answers))

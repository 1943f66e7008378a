"""Multiple choice: which option an answer chooses, by letter, by text, or by the log-probabilities of the options.

Source of the first two: can_infer of https://github.com/open-compass/VLMEvalKit, its exact matching without a judge.
"""

from collections.abc import Sequence

import numpy as np

from ..answers import Answered
from ..data.question import Choice
from .metric import Array, Metric, Scores, ratio
from .texts import space_chinese

MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
LAST_WORDS = 4  # a letter counts only among the last words, so that the article "A" does not
MAX_LENGTH_FACTOR = 2  # an answer longer than this factor times all options is not searched for their texts


def choose_letter(answer: str, choices: Sequence[Choice]) -> str | None:
    """Return the letter of the only option that an answer names near its end; None if there is no such option."""
    words = space_chinese(answer).translate(MARKS).split()
    named = [choice.letter for choice in choices if choice.letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST_WORDS:
        return named[0]
    return None


def choose_text(answer: str, choices: Sequence[Choice]) -> str | None:
    """Return the letter of the only option whose text an answer has; None if there is no such option."""
    if len(answer) > MAX_LENGTH_FACTOR * sum(len(choice.text) for choice in choices):
        return None
    named = [choice.letter for choice in choices if choice.text.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None


def choose(answer: str, choices: Sequence[Choice]) -> str | None:
    """Return the letter of the option that an answer chooses by letter, or else by text; None for none."""
    return choose_letter(answer, choices) or choose_text(answer, choices)


def choose_logprob(answered: Answered) -> str | None:
    """Return the letter of the most probable option; None without a log-probability of each option."""
    choices, logprobs = answered.question.choices, answered.row.choice_logprobs
    if not choices or len(logprobs) != len(choices):
        return None
    return choices[max(range(len(choices)), key=lambda index: logprobs[index])].letter


def measure_choices(answered: Sequence[Answered]) -> Array:
    """Return statistics [N, 7].

    Right by letter or text, by letter, by text, by log-probability; answers, those with a choice, those with
    log-probabilities.
    """
    statistics = np.zeros((len(answered), 7))
    for row, answer in zip(statistics, answered, strict=True):
        choices, accepted = answer.question.choices, answer.question.answers
        either, likely = choose(answer.text, choices), choose_logprob(answer)
        letters = (either, choose_letter(answer.text, choices), choose_text(answer.text, choices), likely)
        row[:4] = [letter in accepted for letter in letters]
        row[4:] = 1, either is not None, likely is not None
    return statistics


def summarize_choices(sums: Array) -> Scores:
    """Return the accuracy by letter or else text, by letter, by text, by log-probability, and the share of choices."""
    either, letter, text, likely, every, chosen, scored = np.moveaxis(sums, -1, 0)
    return {
        "accuracy": ratio(either, every),
        "by_letter": ratio(letter, every),
        "by_text": ratio(text, every),
        "by_logprob": ratio(likely, scored),
        "chosen": ratio(chosen, every),
    }


CHOICES = Metric("choices", measure_choices, summarize_choices, main="accuracy", is_accuracy=True)

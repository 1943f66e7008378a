"""Questions about a scene with their answers, in Chinese and English.

    example = sample_example(scene, rng, "zh")    # .history, .question, .answer, .facts
    is_correct(example, "红色的球在左上角。")         # of tiny.grading

No question asks about the background, and no answer names it. Every answer has exactly one wording, so that a model
can learn it exactly.
"""

from tiny.questions.asking import QUESTION_KINDS, askable_kinds, sample_example, tokenizer_corpus
from visualglm.scenes.facts import Example, Facts, has_same_answer

__all__ = [
    "QUESTION_KINDS",
    "Example",
    "Facts",
    "askable_kinds",
    "has_same_answer",
    "sample_example",
    "tokenizer_corpus",
]

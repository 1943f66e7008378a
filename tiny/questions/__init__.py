"""Questions about a scene with their answers, in Chinese and English.

    example = ask(scene, rng, "zh")          # .history, .question, .answer, .facts
    is_right(example, "红色的球在左上角。")    # of tiny.grading

The background is never asked for nor named. An answer has one wording, so that a model can learn it exactly.
"""

from tiny.questions.asking import QUESTION_KINDS, ask, askable, corpus
from tiny.questions.facts import Example, Facts, fits

__all__ = ["QUESTION_KINDS", "Example", "Facts", "ask", "askable", "corpus", "fits"]

"""Whether an answer is right, judged by what it says and not by how it says it."""

from tiny.grading.verdicts import ThingScore, is_correct, score_things

__all__ = ["ThingScore", "is_correct", "score_things"]

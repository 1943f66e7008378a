"""Grades answers by their meaning, not by their wording."""

from tiny.grading.verdicts import ThingScore, is_correct, score_things

__all__ = ["ThingScore", "is_correct", "score_things"]

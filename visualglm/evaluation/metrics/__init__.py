"""Metrics that equal the official ones; all scores are in percent.

scores = score(METRICS["pope"], match_answers(questions, rows))
"""

from .captions import BLEU, CHRF, CIDER, ROUGE, ROUGE_L
from .chair import ObjectList, chair, read_objects
from .choices import CHOICES, choose, choose_letter, choose_logprob, choose_text
from .exact import EXACT_MATCH, VQA, exact_match, normalize_vqa, vqa_accuracy
from .metric import Metric, mean_metric, score, score_kinds, total
from .texts import tokenize
from .yes_no import MME, POPE, mme_totals, parse_mme, parse_pope

METRICS = {metric.name: metric for metric in (EXACT_MATCH, VQA, CHOICES, POPE, MME, BLEU, ROUGE_L, CIDER, ROUGE, CHRF)}
# The metrics of each format of questions.
DEFAULT_METRICS = {
    "pope": ("pope",),
    "mme": ("mme",),
    "vqa": ("vqa",),
    "captions": ("bleu", "rouge_l", "cider"),
    "choices": ("choices",),
    "llava-bench": ("rouge", "chrf"),
    "questions": ("exact_match",),
    "training": ("exact_match", "rouge", "chrf"),
    "scenes": ("exact_match",),
}

__all__ = [
    "BLEU",
    "CHOICES",
    "CHRF",
    "CIDER",
    "DEFAULT_METRICS",
    "EXACT_MATCH",
    "METRICS",
    "MME",
    "POPE",
    "ROUGE",
    "ROUGE_L",
    "VQA",
    "Metric",
    "ObjectList",
    "chair",
    "choose",
    "choose_letter",
    "choose_logprob",
    "choose_text",
    "exact_match",
    "mean_metric",
    "mme_totals",
    "normalize_vqa",
    "parse_mme",
    "parse_pope",
    "read_objects",
    "score",
    "score_kinds",
    "tokenize",
    "total",
    "vqa_accuracy",
]

"""Metrics of captions and free text: BLEU, ROUGE, CIDEr-D and chrF, computed by well-kept libraries.

BLEU, ROUGE-L and CIDEr-D are those of COCO's captions (pycocoevalcap) on the tokens of `texts.tokenize`, which needs
no Java. ROUGE-1, ROUGE-2 and ROUGE-L as used for summaries are of rouge-score, chrF of sacrebleu.
"""

from collections.abc import Sequence

import numpy as np

from ..answers import Answered
from ..errors import EvaluationError
from .metric import Array, Metric, Scores, import_extra, mean_of_all
from .texts import space_chinese, tokenize

MAX_ORDER = 4  # longest n-gram of BLEU
TINY, SMALL = 1e-15, 1e-9  # constants of pycocoevalcap
CHAR_ORDER = 6  # longest character n-gram of chrF
BETA = 2  # weight of recall in chrF


def references_of(answer: Answered) -> tuple[str, ...]:
    """Return the accepted answers of a question.

    Raises:
        EvaluationError: there are none.
    """
    if not answer.question.answers:
        raise EvaluationError(f"The question {answer.question.key!r} has no reference answer, which this metric needs.")
    return answer.question.accepted_texts()


def tokenized(answered: Sequence[Answered]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return references and answers as pycocoevalcap reads them: by number, tokens separated by blanks."""
    references = {
        number: [" ".join(tokenize(text)) for text in references_of(answer)] for number, answer in enumerate(answered)
    }
    return references, {number: [" ".join(tokenize(answer.text))] for number, answer in enumerate(answered)}


def measure_bleu(answered: Sequence[Answered]) -> Array:
    """Return statistics [N, 10]: matching and all n-grams of the answer by order, its length, the reference length."""
    scorer = import_extra("pycocoevalcap.bleu.bleu_scorer").BleuScorer(n=MAX_ORDER)
    references, answers = tokenized(answered)
    for number, (answer,) in answers.items():
        scorer += (answer, references[number])
    rows = [
        [*counts["correct"], *counts["guess"], counts["testlen"], closest_length(counts["reflen"], counts["testlen"])]
        for counts in scorer.ctest
    ]
    return np.array(rows, np.float64).reshape(len(rows), 2 * MAX_ORDER + 2)


def closest_length(lengths: Sequence[int], length: int) -> int:
    """Return the reference length closest to the answer's length; the shorter one of a tie."""
    return min((abs(candidate - length), candidate) for candidate in lengths)[1]


def summarize_bleu(sums: Array) -> Scores:
    """Return BLEU-1 to BLEU-4 of the corpus, as pycocoevalcap computes them."""
    correct, guessed = sums[..., :MAX_ORDER], sums[..., MAX_ORDER : 2 * MAX_ORDER]
    length_ratio = (sums[..., -2] + TINY) / (sums[..., -1] + SMALL)
    penalty = np.where(length_ratio < 1, np.exp(1 - 1 / length_ratio), 1.0)
    products = np.cumprod((correct + TINY) / (guessed + SMALL), axis=-1)
    orders = range(1, MAX_ORDER + 1)
    return {f"bleu_{order}": 100 * penalty * products[..., order - 1] ** (1 / order) for order in orders}


def rouge_l(answered: Sequence[Answered]) -> list[float]:
    """Return the ROUGE-L of COCO's captions of each answer."""
    scorer = import_extra("pycocoevalcap.rouge.rouge").Rouge()
    return [float(score) for score in scorer.compute_score(*tokenized(answered))[1]]


def cider(answered: Sequence[Answered]) -> list[float]:
    """Return the CIDEr-D of each answer; n-grams are weighted by their frequency in all references."""
    scorer = import_extra("pycocoevalcap.cider.cider").Cider()
    return [float(score) for score in scorer.compute_score(*tokenized(answered))[1]]


class WordsAndCharacters:
    """The tokenizer of rouge-score, with Chinese by character."""

    def __init__(self) -> None:
        self._words = import_extra("rouge_score.tokenizers").DefaultTokenizer(use_stemmer=False)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        tokens: list[str] = []
        for part in space_chinese(text).split():
            tokens += self._words.tokenize(part) if part.isascii() else [part.lower()] * any(map(str.isalnum, part))
        return tokens


def measure_rouge(answered: Sequence[Answered]) -> Array:
    """Return statistics [N, 4]: F1 of ROUGE-1, ROUGE-2, ROUGE-L with the best reference of each, and 1."""
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = import_extra("rouge_score.rouge_scorer").RougeScorer(names, tokenizer=WordsAndCharacters())
    rows = []
    for answer in answered:
        scores = [scorer.score(reference, answer.text) for reference in references_of(answer)]
        rows.append([*(max(score[name].fmeasure for score in scores) for name in names), 1.0])
    return np.array(rows, np.float64).reshape(len(rows), 4)


def summarize_rouge(sums: Array) -> Scores:
    """Return the means of ROUGE-1, ROUGE-2 and ROUGE-L."""
    count = np.where(sums[..., 3] > 0, sums[..., 3], np.nan)
    names = ("rouge_1", "rouge_2", "rouge_l_f1")
    return {name: 100 * sums[..., column] / count for column, name in enumerate(names)}


def measure_chrf(answered: Sequence[Answered]) -> Array:
    """Return statistics [N, 18]: for each order the n-grams of the answer, of the best reference, and common ones."""
    scorer = import_extra("sacrebleu.metrics").CHRF(char_order=CHAR_ORDER, word_order=0, beta=BETA)
    rows = []
    for answer in answered:
        references = [[text] for text in references_of(answer)]
        rows += scorer._extract_corpus_statistics([answer.text], references)
    return np.array(rows, np.float64).reshape(len(rows), 3 * CHAR_ORDER)


def summarize_chrf(sums: Array) -> Scores:
    """Return chrF2 of the corpus, as sacrebleu computes it: the mean of precision and recall over the orders."""
    counts = sums.reshape(*sums.shape[:-1], CHAR_ORDER, 3)
    answer, reference, common = np.moveaxis(counts, -1, 0)
    is_counted = (answer > 0) & (reference > 0)  # the other orders are left out of the means
    orders = np.maximum(is_counted.sum(axis=-1), 1)
    precision = np.divide(common, answer, out=np.zeros_like(common), where=is_counted).sum(axis=-1) / orders
    recall = np.divide(common, reference, out=np.zeros_like(common), where=is_counted).sum(axis=-1) / orders
    weighted = BETA**2 * precision + recall
    product = (1 + BETA**2) * precision * recall
    return {"chrf": 100 * np.divide(product, weighted, out=np.zeros_like(product), where=weighted > 0)}


BLEU = Metric("bleu", measure_bleu, summarize_bleu, main="bleu_4")
ROUGE_L = mean_of_all("rouge_l", rouge_l)
CIDER = mean_of_all("cider", cider)
ROUGE = Metric("rouge", measure_rouge, summarize_rouge, main="rouge_l_f1")
CHRF = Metric("chrf", measure_chrf, summarize_chrf, main="chrf")

"""The generated rows of visualglm-tiny's training and evaluation stay the same, byte for byte, at fixed seeds.

tests/tiny/tiny_rows.json holds their SHA-256 hashes. After an intended change of the rows, update the hashes:

    python -m tests.tiny.test_tiny_rows
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import load_tokenizer
from tiny.evaluation.generated_dataset import generate_questions
from tiny.questions import QUESTION_KINDS, Example, askable_kinds, sample_example, tokenizer_corpus
from tiny.training.data import make_batch
from tiny.training.encoding import BatchLayout
from tiny.words.sentences import Language
from visualglm.scenes import sample_scene

HASHES = Path(__file__).with_name("tiny_rows.json")
SEEDS = (1, 2, 3)
LANGUAGES: tuple[Language, ...] = ("zh", "en")
EXAMPLES = 60  # of each kind of question in each language
SMALL_TALK = 400  # examples without an image in each language: small talk, common sense, questions without an image
CORPUS = 6000  # texts for the tokenizer; the first ones are everyday sentences
EVALUATED = 48  # evaluation questions: two of each kind in each language
STEPS = 3
SIZES = BatchLayout(images=16, questions=8)
LENGTHS = [320] * (len(SIZES.buckets()) + 1)  # the last group has no images


def hash_lines(lines: Iterable[str]) -> str:
    """Return the SHA-256 hash of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def to_line(example: Example) -> str:
    """Return all learned texts of an example as one line."""
    buckets = [example.kind, example.language, example.history, example.question, example.answer]
    return json.dumps(buckets, ensure_ascii=False)


def sample_examples(seed: int, language: Language, kind: str) -> Iterator[Example]:
    """Yield examples of a kind, each about its own scene; some of them have earlier turns."""
    rng = np.random.default_rng([seed, LANGUAGES.index(language), list(QUESTION_KINDS).index(kind)])
    count = 0
    while count < EXAMPLES:
        scene = sample_scene(rng)
        if kind in askable_kinds(scene):
            count += 1
            yield sample_example(scene, rng, language, kind)


def sample_small_talk(seed: int, language: Language) -> Iterator[Example]:
    """Yield examples without an image."""
    rng = np.random.default_rng([seed, LANGUAGES.index(language), 100])
    for _ in range(SMALL_TALK):
        yield sample_example(None, rng, language)


def batch_lines(seed: int, tokenizer: Any) -> Iterator[str]:
    """Yield the token rows of a few training steps: ids, labels, context length and image of each sequence."""
    sizes = BatchLayout(images=SIZES.images, questions=SIZES.questions, seed=seed)
    for step in range(STEPS):
        for part in make_batch(tokenizer, sizes, LENGTHS, step).sequences:
            images = None if part.image_index is None else part.image_index.tolist()
            yield json.dumps([part.ids.tolist(), part.labels.tolist(), part.context.tolist(), images, part.image_start])


def evaluation_lines(seed: int) -> Iterator[str]:
    """Yield the evaluation's questions with their answers."""
    for question in generate_questions(seed, EVALUATED):
        buckets = [question.kind, question.language, question.history, question.text, question.answers]
        yield json.dumps(buckets, ensure_ascii=False)


def hash_rows(seed: int, tokenizer: Any) -> dict[str, str]:
    """Return the hash of each kind of row."""
    hashes = {}
    for language in LANGUAGES:
        for kind in QUESTION_KINDS:
            hashes[f"{kind} {language}"] = hash_lines(map(to_line, sample_examples(seed, language, kind)))
        hashes[f"small talk {language}"] = hash_lines(map(to_line, sample_small_talk(seed, language)))
    hashes["batches"] = hash_lines(batch_lines(seed, tokenizer))
    hashes["evaluation"] = hash_lines(evaluation_lines(seed))
    hashes["corpus"] = hash_lines(tokenizer_corpus(np.random.default_rng(seed), CORPUS))
    return hashes


@pytest.mark.parametrize("seed", SEEDS)
def test_generated_rows_have_not_changed(seed: int) -> None:
    expected = json.loads(HASHES.read_text(encoding="utf-8"))[str(seed)]
    assert hash_rows(seed, load_tokenizer("visualglm-tiny")) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_hashed_rows_cover_histories_comparisons_and_small_talk(language: Language) -> None:
    examples = [example for kind in QUESTION_KINDS for example in sample_examples(SEEDS[0], language, kind)]
    assert {example.kind for example in examples} == set(QUESTION_KINDS)
    assert {example.facts.aspect for example in examples} >= {"larger", "is_larger", "extreme", "relation", "is_beside"}
    assert {len(example.history) for example in examples} >= {0, 1, 2, 3, 4}
    talk = list(sample_small_talk(SEEDS[0], language))
    assert {example.facts.aspect for example in talk} == {"topic", "colour"}
    assert {len(example.history) for example in talk} == {0, 1}


def write_hashes() -> None:
    """Write the hashes of the current rows."""
    tokenizer = load_tokenizer("visualglm-tiny")
    hashes = {seed: hash_rows(seed, tokenizer) for seed in SEEDS}
    HASHES.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_hashes()

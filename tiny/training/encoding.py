"""Encodes questions and answers as token ids, with the prompt of `model.prompt`, as the chat does.

Sequences of random words from the whole vocabulary, to be repeated, are added. Without them, the output weights of
tokens that never occur as targets all move in the same direction, and an adapter next to frozen weights could not
distinguish them.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from model.prompt import CHINESE, ENGLISH, Turn, encode_turns
from tiny.grading.mentions import find_mentions
from tiny.questions import Example, sample_example
from tiny.training.tokenizer import HEAD_PIECES
from tiny.words.sentences import LANGUAGES, Language, pick, read_sentences
from visualglm.scenes import HELD_OUT, Scene, sample_scene

MAX_TOKENS = 320  # of prompt and answer; longer examples are skipped
TEXT_RATIO, REPETITION_RATIO = 0.04, 0.02  # small talk and repetitions, relative to the image examples
# A model that sees the preceding words learns which words never follow each other, and then does not produce a held-out
# pair of color and kind. Masked words force it to use the image.
MASKED_ANSWER_RATE, MASKED_TOKEN_RATE = 0.5, 0.3  # share of masked answers, and of masked tokens in them
MIN_REPEATED, MAX_REPEATED = 3, 10  # tokens in a repetition
PROMPT_LANGUAGES = {"zh": CHINESE, "en": ENGLISH}


@dataclass(frozen=True)
class BatchLayout:
    """The composition of a batch.

    Attributes:
        images: number of images.
        questions: questions per image, half of them in each language.
        bucket_ends: where the image examples, sorted by length, are split into buckets, as fractions. Few buckets need
            few kernels; a small last one for the longest examples wastes little padding.
        grid: rows of the segmentation map.
        presence_grid: rows of the presence map, which is predicted from the image embeddings.
        image_length: number of image embeddings per image.
        seed: seed of all sampling.
    """

    images: int = 128
    questions: int = 8
    bucket_ends: tuple[float, ...] = (0.5625, 0.8125, 0.96875)
    grid: int = 16
    presence_grid: int = 6
    image_length: int = 32
    seed: int = 1

    def __post_init__(self) -> None:
        if any(stop <= start for start, stop in self.buckets()):
            raise ValueError(
                f"{self.images} images with {self.questions} questions each leave a bucket empty; use more."
            )

    def buckets(self) -> list[tuple[int, int]]:
        """Return the start and end of each bucket among the sorted examples."""
        count = self.images * self.questions
        return list(pairwise([0, *(int(cut * count) for cut in self.bucket_ends), count]))


@dataclass(frozen=True)
class EncodedExample:
    """One encoded example.

    Attributes:
        prompt_ids: token ids up to <sop>.
        target_ids: token ids to learn, ending with <eop>.
        input_ids: the answer as model input: `target_ids`, some of them replaced by [MASK].
        image_index: index of its image in the batch.
        image_start: position of the first image placeholder; None without an image.
    """

    prompt_ids: list[int]
    target_ids: list[int]
    input_ids: list[int]
    image_index: int
    image_start: int | None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


def encode_example(tokenizer: Any, example: Example, image_index: int, image_length: int | None) -> EncodedExample:
    """Encode an example without masking."""
    turns = [Turn(question, answer) for question, answer in example.history]
    return _encode(tokenizer, turns, example.question, example.answer, example.language, image_index, image_length)


def _encode(
    tokenizer: Any,
    turns: list[Turn],
    question: str,
    answer: str,
    language: Language,
    image_index: int = 0,
    image_length: int | None = None,
) -> EncodedExample:
    prompt = encode_turns(tokenizer, turns, question, PROMPT_LANGUAGES[language], image_length)
    ids = [*tokenizer.encode_text(answer), tokenizer.eos_token_id]
    return EncodedExample(prompt.token_ids, ids, ids, image_index, prompt.image_start)


def mask_answer(example: EncodedExample, mask_id: int, rng: np.random.Generator) -> EncodedExample:
    """Replace random tokens of the answer by [MASK] in the input, in a share of the examples."""
    if rng.random() >= MASKED_ANSWER_RATE:
        return example
    is_masked = rng.random(len(example.target_ids)) < MASKED_TOKEN_RATE
    return replace(
        example,
        input_ids=[mask_id if masked else id_ for id_, masked in zip(example.target_ids, is_masked, strict=True)],
    )


def sample_buckets(
    tokenizer: Any, layout: BatchLayout, scenes: list[Scene], rng: np.random.Generator
) -> list[list[EncodedExample]]:
    """Sample questions about the scenes; return buckets by length, the last one without images."""
    mask_id = tokenizer.mask_token_id
    examples = [
        mask_answer(
            encode_example(tokenizer, sample_example(scene, rng, code), number, layout.image_length), mask_id, rng
        )
        for number, scene in enumerate(scenes)
        for code in LANGUAGES * (layout.questions // 2)
    ]
    examples.sort(key=len)
    return [
        *(examples[start:stop] for start, stop in layout.buckets()),
        sample_text_examples(tokenizer, len(examples), rng),
    ]


def sample_text_examples(tokenizer: Any, count: int, rng: np.random.Generator) -> list[EncodedExample]:
    """Return the examples without images that accompany `count` image examples."""
    talk_count, repetition_count = (max(1, int(count * ratio / 2)) for ratio in (TEXT_RATIO, REPETITION_RATIO))
    talk = [encode_example(tokenizer, sample_example(None, rng, code), 0, None) for code in LANGUAGES * talk_count]
    repetitions = [(code, *sample_repetition(tokenizer, code, rng)) for code in LANGUAGES * repetition_count]
    return [*talk, *(_encode(tokenizer, [], question, answer, code) for code, question, answer in repetitions)]


def sample_repetition(tokenizer: Any, language: Language, rng: np.random.Generator) -> tuple[str, str]:
    """Return a request to repeat random words of a language, and the words as its answer."""
    (start, stop), first = tokenizer.english_forbidden_ids[0], len(HEAD_PIECES)
    low, high = (start, stop) if language == "zh" else (first, start)
    words = ""
    while not words or names_held_out(language, words):
        words = tokenizer.decode_text(
            rng.integers(low, high, rng.integers(MIN_REPEATED, MAX_REPEATED + 1)).tolist()
        ).strip()
    return pick(rng, read_sentences(f"{language}/everyday")["repeat"]).format(words), words


def names_held_out(language: Language, text: str) -> bool:
    """Check whether the text names a held-out pair."""
    return any((mention.color, mention.kind) in HELD_OUT for mention in find_mentions(language, text.lower()))


def plan_bucket_lengths(tokenizer: Any, layout: BatchLayout, trials: int = 16) -> list[int]:
    """Return the length of each bucket: the longest example of some trial batches, at most MAX_TOKENS."""
    longest = []
    for trial in range(trials):
        rng = np.random.default_rng([layout.seed, trial, 1])
        scenes = [sample_scene(rng) for _ in range(layout.images)]
        longest.append([max(map(len, group)) for group in sample_buckets(tokenizer, layout, scenes, rng)])
    return [min(MAX_TOKENS, -(-max(column) // 16) * 16) for column in zip(*longest, strict=True)]

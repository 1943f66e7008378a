"""Questions and answers -> token ids, each as the chat would encode it: the prompt is `model.prompt`'s.

Beside them come words to repeat, drawn from the whole vocabulary. The output weights of tokens that are never said are
all pushed in one direction, so that an adapter beside frozen weights could not tell one from another. Here every token
is said.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from model.prompt import CHINESE, ENGLISH, Turn, encode_turns
from tiny.grading.mentions import find_mentions
from tiny.questions import Example, sample_example
from tiny.scenes import HELD_OUT, Scene, sample_scene
from tiny.training.tokenizer import HEAD_PIECES
from tiny.words.sentences import LANGUAGES, Language, pick, read_sentences

MAX_TOKENS = 320  # tokens of prompt and answer; longer examples are left out
TEXT_RATIO, REPETITION_RATIO = 0.04, 0.02  # small talk, and words to repeat, in sequences per sequence about a picture
# A model that sees which words came before soon learns which never follow one another, and then does not say a pair of
# color and kind that training never showed. Where words are hidden it has to look.
MASKED_ANSWER_RATE, MASKED_TOKEN_RATE = 0.5, 0.3  # answers of which words are hidden, and how many of their words
MIN_REPEATED, MAX_REPEATED = 3, 10  # tokens to repeat
PROMPT_LANGUAGES = {"zh": CHINESE, "en": ENGLISH}


@dataclass(frozen=True)
class BatchLayout:
    """How much is in a batch.

    Attributes:
        images: images in a batch.
        questions: questions about each, half in each language.
        bucket_ends: where the examples with an image, sorted by length, are split into buckets, as fractions. Few
            buckets mean few
            kernels, and a small last one for the long ones little padding.
        grid: cells of a row of the object map.
        places: cells of a row of the map of places, which is read from the image embeddings.
        image_length: vectors that stand for a picture.
        seed: of everything that is drawn.
    """

    images: int = 128
    questions: int = 8
    bucket_ends: tuple[float, ...] = (0.5625, 0.8125, 0.96875)
    grid: int = 16
    places: int = 6
    image_length: int = 32
    seed: int = 1

    def __post_init__(self) -> None:
        if any(stop <= start for start, stop in self.buckets()):
            raise ValueError(
                f"{self.images} pictures with {self.questions} questions each leave a part empty; take more."
            )

    def buckets(self) -> list[tuple[int, int]]:
        """Return where each part of the sorted rows begins and ends."""
        count = self.images * self.questions
        return list(pairwise([0, *(int(cut * count) for cut in self.bucket_ends), count]))


@dataclass(frozen=True)
class EncodedExample:
    """One encoded example, and the picture that it is about.

    Attributes:
        prompt_ids: ids up to <sop>.
        target_ids: ids to learn, the last one <eop>.
        input_ids: the answer as the model sees it while it learns it, some ids hidden.
        image_index: index of the picture in its batch.
        image_start: index of the picture's first placeholder; None without a picture.
    """

    prompt_ids: list[int]
    target_ids: list[int]
    input_ids: list[int]
    image_index: int
    image_start: int | None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


def encode_example(tokenizer: Any, example: Example, image_index: int, image_length: int | None) -> EncodedExample:
    """Encode an example, all of its answer seen."""
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
    """Return the row with some of its answer hidden from what comes after, or as it is."""
    if rng.random() >= MASKED_ANSWER_RATE:
        return example
    hidden = rng.random(len(example.target_ids)) < MASKED_TOKEN_RATE
    return replace(
        example, input_ids=[mask_id if hide else id_ for id_, hide in zip(example.target_ids, hidden, strict=True)]
    )


def sample_buckets(
    tokenizer: Any, layout: BatchLayout, scenes: list[Scene], rng: np.random.Generator
) -> list[list[EncodedExample]]:
    """Ask about the scenes; return groups from short to long, the last one of examples without a picture."""
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
    """Return what comes without a picture beside `count` questions about pictures."""
    talks, repeats = (max(1, int(count * share / 2)) for share in (TEXT_RATIO, REPETITION_RATIO))
    talk = [encode_example(tokenizer, sample_example(None, rng, code), 0, None) for code in LANGUAGES * talks]
    said = [(code, *sample_repetition(tokenizer, code, rng)) for code in LANGUAGES * repeats]
    return [*talk, *(_encode(tokenizer, [], question, answer, code) for code, question, answer in said)]


def sample_repetition(tokenizer: Any, language: Language, rng: np.random.Generator) -> tuple[str, str]:
    """Return a request and its answer, words of that language in any order."""
    (start, stop), first = tokenizer.english_forbidden_ids[0], len(HEAD_PIECES)
    low, high = (start, stop) if language == "zh" else (first, start)
    words = ""
    while not words or names_held_out(language, words):
        words = tokenizer.decode_text(
            rng.integers(low, high, rng.integers(MIN_REPEATED, MAX_REPEATED + 1)).tolist()
        ).strip()
    return pick(rng, read_sentences(f"{language}/everyday")["repeat"]).format(words), words


def names_held_out(language: Language, text: str) -> bool:
    """Whether the text names a pair that training must not have."""
    return any((mention.color, mention.kind) in HELD_OUT for mention in find_mentions(language, text.lower()))


def plan_bucket_lengths(tokenizer: Any, layout: BatchLayout, trials: int = 16) -> list[int]:
    """The length of each group of every batch: what the longest of some trial batches need, up to LONGEST."""
    longest = []
    for trial in range(trials):
        rng = np.random.default_rng([layout.seed, trial, 1])
        scenes = [sample_scene(rng) for _ in range(layout.images)]
        longest.append([max(map(len, group)) for group in sample_buckets(tokenizer, layout, scenes, rng)])
    return [min(MAX_TOKENS, -(-max(column) // 16) * 16) for column in zip(*longest, strict=True)]

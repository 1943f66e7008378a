"""Questions and answers -> token ids, each as the chat would encode it: the prompt is `model.prompt`'s."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.prompt import CHINESE, ENGLISH, Turn, encode_turns
from tiny.questions import Example, ask
from tiny.scenes import Scene, sample_scene
from tiny.training.repeats import draw_repeat
from tiny.training.sizes import Sizes
from tiny.words.sentences import Language

LONGEST = 320  # tokens of prompt and answer; longer examples are left out
TEXT_SHARE, REPEAT_SHARE = 0.04, 0.02  # small talk, and words to repeat, in sequences per sequence about a picture
# A model that sees which words came before soon learns which never follow one another, and then does not say a pair of
# colour and kind that training never showed. Where words are hidden it has to look.
HIDING_RATE, HIDDEN_SHARE = 0.5, 0.3  # answers of which words are hidden, and how many of their words
CODES: tuple[Language, Language] = ("zh", "en")
LANGUAGES = {"zh": CHINESE, "en": ENGLISH}


@dataclass(frozen=True)
class Row:
    """One encoded example, and the picture that it is about.

    Attributes:
        prompt: ids up to <sop>.
        answer: ids to learn, the last one <eop>.
        seen: the answer as the model sees it while it learns it, some ids hidden.
        picture: number of the picture in its batch.
        image_start: index of the picture's first placeholder; None without a picture.
    """

    prompt: list[int]
    answer: list[int]
    seen: list[int]
    picture: int
    image_start: int | None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def encode_example(tokenizer: Any, example: Example, picture: int, image_length: int | None) -> Row:
    """Encode an example, all of its answer seen."""
    turns = [Turn(question, answer) for question, answer in example.history]
    return _encode(tokenizer, turns, example.question, example.answer, example.language, picture, image_length)


def _encode(
    tokenizer: Any,
    turns: list[Turn],
    question: str,
    answer: str,
    language: Language,
    picture: int = 0,
    image_length: int | None = None,
) -> Row:
    prompt = encode_turns(tokenizer, turns, question, LANGUAGES[language], image_length)
    ids = [*tokenizer.encode_text(answer), tokenizer.eos_token_id]
    return Row(prompt.token_ids, ids, ids, picture, prompt.image_start)


def hide_words(row: Row, mask_id: int, rng: np.random.Generator) -> Row:
    """Return the row with some of its answer hidden from what comes after, or as it is."""
    if rng.random() >= HIDING_RATE:
        return row
    hidden = rng.random(len(row.answer)) < HIDDEN_SHARE
    return replace(row, seen=[mask_id if hide else id_ for id_, hide in zip(row.answer, hidden, strict=True)])


def draw_rows(tokenizer: Any, sizes: Sizes, scenes: list[Scene], rng: np.random.Generator) -> list[list[Row]]:
    """Ask about the scenes; return groups from short to long, the last one of examples without a picture."""
    mask_id = tokenizer.mask_token_id
    rows = [
        hide_words(encode_example(tokenizer, ask(scene, rng, code), number, sizes.image_length), mask_id, rng)
        for number, scene in enumerate(scenes)
        for code in CODES * (sizes.questions // 2)
    ]
    rows.sort(key=len)
    return [*(rows[start:stop] for start, stop in sizes.parts()), draw_blind(tokenizer, len(rows), rng)]


def draw_blind(tokenizer: Any, count: int, rng: np.random.Generator) -> list[Row]:
    """Return what comes without a picture beside `count` questions about pictures."""
    talks, repeats = (max(1, int(count * share / 2)) for share in (TEXT_SHARE, REPEAT_SHARE))
    talk = [encode_example(tokenizer, ask(None, rng, code), 0, None) for code in CODES * talks]
    said = [(code, *draw_repeat(tokenizer, code, rng)) for code in CODES * repeats]
    return [*talk, *(_encode(tokenizer, [], question, answer, code) for code, question, answer in said)]


def plan_lengths(tokenizer: Any, sizes: Sizes, trials: int = 16) -> list[int]:
    """The length of each group of every batch: what the longest of some trial batches need, up to LONGEST."""
    longest = []
    for trial in range(trials):
        rng = np.random.default_rng([sizes.seed, trial, 1])
        scenes = [sample_scene(rng) for _ in range(sizes.pictures)]
        longest.append([max(map(len, group)) for group in draw_rows(tokenizer, sizes, scenes, rng)])
    return [min(LONGEST, -(-max(column) // 16) * 16) for column in zip(*longest, strict=True)]

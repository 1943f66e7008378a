"""Words to say after somebody, drawn from the whole vocabulary.

The output weights of tokens that are never said are all pushed in one direction, so that an adapter beside frozen
weights could not tell one from another. Here every token is said.
"""

from typing import Any

import numpy as np

from tiny.grading.mentions import find_mentions
from tiny.scenes import HELD_OUT
from tiny.training.tokenizer import HEAD_PIECES
from tiny.words.sentences import Language, pick, read_sentences

FEWEST, MOST = 3, 10  # tokens


def draw_repeat(tokenizer: Any, language: Language, rng: np.random.Generator) -> tuple[str, str]:
    """Return a request and its answer, words of that language in any order."""
    (start, stop), first = tokenizer.english_forbidden_ids[0], len(HEAD_PIECES)
    low, high = (start, stop) if language == "zh" else (first, start)
    words = ""
    while not words or names_held_out(language, words):
        words = tokenizer.decode_text(rng.integers(low, high, rng.integers(FEWEST, MOST + 1)).tolist()).strip()
    return pick(rng, read_sentences(f"{language}/everyday")["repeat"]).format(words), words


def names_held_out(language: Language, text: str) -> bool:
    """Whether the text names a pair that training must not have."""
    return any((mention.colour, mention.kind) in HELD_OUT for mention in find_mentions(language, text.lower()))

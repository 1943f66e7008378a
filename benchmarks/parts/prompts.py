"""Prompts of an exact number of tokens, with random pictures, for measuring what a prompt's length costs."""

import random
import re
from typing import Any

import torch

from model import DEMO, GenerationConfig
from model.prompt import IMAGE_OPEN

# Tokens before the picture and [gMASK] <sop> at the end, as the published tokenizer has them.
OPENING, CLOSING = 3, 2
ORDINARY_IDS = range(100, 1000)  # neither control tokens nor bytes, in any of our vocabularies
SHORT, LONG = 49, 1019  # tokens of the prompts that the original was measured with


def question(length: int, number: int = 0) -> str:
    """Return a question whose prompt, with a picture, has `length` tokens; another `number` makes it another one."""
    return f"{length} {number}"


class LengthTokenizer:
    """Encodes `question` as so many random tokens, always the same for the same text; decodes as another tokenizer.

    Args:
        tokenizer: a ChatGLMTokenizer.
        image_length: vectors that stand for a picture.
    """

    def __init__(self, tokenizer: Any, image_length: int) -> None:
        self.tokenizer = tokenizer
        self.image_length = image_length

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode_text(self, text: str) -> list[int]:
        """Encode what opens a picture, or all that follows it."""
        count = OPENING
        if text != IMAGE_OPEN:
            length = re.search(r"\d+", text)
            assert length is not None, f"{text!r} is no question of a known length"
            count = int(length[0]) - OPENING - self.image_length - CLOSING
        return random.Random(text).choices(ORDINARY_IDS, k=count)


def random_pixels(count: int, size: int, seed: int) -> list[torch.Tensor]:
    """Return `count` pictures as a network reads them, each [1, 3, size, size] on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 3, size, size, generator=generator) for _ in range(count)]


def of_length(tokens: int, eos_token_id: int, seed: int) -> GenerationConfig:
    """Return the demos' sampling for an answer of exactly `tokens` tokens: the end token is forbidden."""
    return DEMO.replace(max_new_tokens=tokens, seed=seed, forbidden_ids=((eos_token_id, eos_token_id + 1),))

"""Benchmark questions, and prompts of an exact number of tokens with random images."""

import random
import re
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from model import CHINESE, DEMO, ENGLISH, Conversation, GenerationConfig, Language, Turn
from model.prompt import IMAGE_OPEN

# Tokens before the image, and [gMASK] <sop> at the end, with the published tokenizer.
OPENING, CLOSING = 3, 2
ORDINARY_IDS = range(100, 1000)  # neither control tokens nor bytes in any of our vocabularies
SHORT, LONG = 49, 1019  # prompt lengths for which there are measurements of the original


@dataclass(frozen=True)
class Case:
    """A question after `turns` earlier turns, and the number of tokens of its answer."""

    question: str
    tokens: int
    turns: int = 0
    language: Language = CHINESE

    def conversation(self, image: Image.Image | torch.Tensor) -> Conversation:
        """Return the conversation of the question."""
        turns = [Turn("图片里有几个物体？", "图片里有三个物体。")] * self.turns
        return Conversation(image, turns, self.language)


CASES = (
    Case("描述这张图片。", 128),
    Case("How many objects are there?", 64, language=ENGLISH),
    Case("图片里有几个物体？", 512),
    Case("图片里有几个物体？", 128, turns=24),
)


@dataclass(frozen=True)
class Answer:
    """Measurements of one answer; `again_s` is the time to first token when the question is repeated."""

    prompt_tokens: int
    first_token_s: float
    tokens_per_s: float
    again_s: float


def length_question(length: int, number: int = 0) -> str:
    """Return a question whose prompt, with an image, has `length` tokens; `number` varies the tokens."""
    return f"{length} {number}"


class LengthTokenizer:
    """Encodes a `length_question` as random tokens of that length, seeded by the text.

    Decoding and everything else is done by the wrapped tokenizer.

    Args:
        tokenizer: a ChatGLMTokenizer.
        image_length: number of image embeddings per image.
    """

    def __init__(self, tokenizer: Any, image_length: int) -> None:
        self.tokenizer = tokenizer
        self.image_length = image_length

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode_text(self, text: str) -> list[int]:
        """Encode the text before an image, or all text after it."""
        count = OPENING
        if text != IMAGE_OPEN:
            length = re.search(r"\d+", text)
            assert length is not None, f"{text!r} is not a length_question"
            count = int(length[0]) - OPENING - self.image_length - CLOSING
        return random.Random(text).choices(ORDINARY_IDS, k=count)


def random_pixels(count: int, size: int, seed: int) -> list[torch.Tensor]:
    """Return `count` preprocessed random images, each [1, 3, size, size] on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 3, size, size, generator=generator) for _ in range(count)]


def fixed_length_config(tokens: int, eos_token_id: int, seed: int) -> GenerationConfig:
    """Return the demos' sampling for exactly `tokens` tokens: the end token is forbidden."""
    return DEMO.replace(max_new_tokens=tokens, seed=seed, forbidden_ids=((eos_token_id, eos_token_id + 1),))

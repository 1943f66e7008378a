"""The questions that are answered for measuring, and what is measured of an answer."""

from dataclasses import dataclass

import torch
from PIL import Image

from model import CHINESE, ENGLISH, Conversation, Language, Turn


@dataclass(frozen=True)
class Case:
    """A question and the number of tokens that answer it, after `turns` earlier rounds."""

    question: str
    tokens: int
    turns: int = 0
    language: Language = CHINESE

    def conversation(self, picture: Image.Image | torch.Tensor) -> Conversation:
        """Return the conversation in which the question is asked."""
        turns = [Turn("图片里有几个物体？", "图片里有三个物体。")] * self.turns
        return Conversation(picture, turns, self.language)


CASES = (
    Case("描述这张图片。", 128),
    Case("How many objects are there?", 64, language=ENGLISH),
    Case("图片里有几个物体？", 512),
    Case("图片里有几个物体？", 128, turns=24),
)


@dataclass(frozen=True)
class Answer:
    """One answer measured: `again_s` is the first token of the same question asked once more."""

    prompt_tokens: int
    first_token_s: float
    tokens_per_s: float
    again_s: float

"""What is asked of the engine, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import GenerationError
from .config import GenerationConfig, IdRange


@dataclass(frozen=True)
class Step:
    """One token of an answer.

    Attributes:
        token_id: the token; None in a last step that adds none (the end token is not part of an answer).
        finish_reason: None while the answer goes on, "stop" at the end token, "length" at a limit.
    """

    token_id: int | None
    finish_reason: str | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt to be answered.

    Attributes:
        token_ids: it ends with [gMASK] <sop>.
        config: how the answer is sampled.
        forbidden: token ids never to answer with, as half-open ranges.
        images: the picture's embeddings [1, L, D], which replace the tokens from `image_start` on.
        penalize_prompt: whether the repetition penalty counts the prompt's tokens, too.
    """

    token_ids: Sequence[int]
    config: GenerationConfig
    forbidden: Sequence[IdRange] = ()
    images: torch.Tensor | None = None
    image_start: int = 0
    penalize_prompt: bool = False

    def budget(self, longest: int) -> int:
        """Return how many tokens the answer may have, at least 0, in a model of `longest` positions."""
        config = self.config
        room = min(config.max_length, longest) - len(self.token_ids)
        return max(0, room if config.max_new_tokens is None else min(room, config.max_new_tokens))

    def room(self, longest: int) -> int:
        """Return how many tokens the prompt and its answer take at most."""
        return len(self.token_ids) + self.budget(longest)


Event = tuple[Request, Step | GenerationError]

"""The loop that writes an answer: prefill, sample, decode, sample, ... There is no other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..errors import GenerationError
from .config import GenerationConfig, IdRange
from .decoder import Network, make_decoder
from .sampling import forbid, penalize, sample


@dataclass(frozen=True)
class Step:
    """One token of an answer.

    Attributes:
        token_id: the token; None in a last step that adds none (the end token is not part of an answer).
        finish_reason: None while the answer goes on, "stop" at the end token, "length" at a limit.
    """

    token_id: int | None
    finish_reason: str | None = None


def token_budget(prompt_length: int, config: GenerationConfig, longest: int) -> int:
    """Return how many tokens an answer may have, at least 0, in a model of `longest` positions."""
    room = min(config.max_length, longest) - prompt_length
    return max(0, room if config.max_new_tokens is None else min(room, config.max_new_tokens))


def make_generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    """Return a random generator of its own for a seeded answer; None shares the program's."""
    return None if seed is None else torch.Generator(device).manual_seed(seed)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn a device's want of memory into an error for a person."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GenerationError(
            "The device has too little memory left for this prompt. Lower max_length, shorten the conversation, "
            "or end other programs that use the device."
        ) from error


@torch.inference_mode()
def generate(
    network: Network,
    token_ids: Sequence[int],
    config: GenerationConfig,
    *,
    end_id: int,
    forbidden: Sequence[IdRange] = (),
    images: torch.Tensor | None = None,
    image_start: int = 0,
) -> Iterator[Step]:
    """Answer the prompt `token_ids`, a step at a time; closing the iterator stops.

    Args:
        token_ids: a prompt that ends with [gMASK] <sop>.
        end_id: the token that ends an answer.
        forbidden: token ids never to answer with, as half-open ranges.
        images: the picture's embeddings [1, L, D], which replace the prompt's tokens from `image_start` on.

    Raises:
        GenerationError: the logits are not numbers, or the device's memory does not suffice.
    """
    budget = token_budget(len(token_ids), config, network.max_sequence_length)
    if budget == 0:
        yield Step(None, "length")
        return
    generator = make_generator(config.seed, network.device)
    with memory_explained():
        decoder = make_decoder(network, len(token_ids) + budget)
        logits = decoder.prefill(torch.tensor([token_ids], device=network.device), images, image_start)
    answer = torch.empty(1, 0, dtype=torch.long, device=network.device)
    for count in range(1, budget + 1):
        too_short = len(token_ids) + count <= config.min_length
        banned = [*forbidden, (end_id, end_id + 1)] if too_short else forbidden
        logits = penalize(forbid(logits, banned), answer, config.repetition_penalty)
        token = sample(logits, config, generator)
        token_id = int(token)
        if token_id == end_id:
            yield Step(None, "stop")
            return
        yield Step(token_id, "length" if count == budget else None)
        if count < budget:
            answer = torch.cat((answer, token), dim=1)
            logits = decoder.decode_one_token(token)

"""Answers that are written side by side: they begin and end between steps, each with settings of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..errors import GenerationError
from .config import GenerationConfig, IdRange
from .decoder import Network, make_decoder
from .sampler import BROKEN, Sampler


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
    """

    token_ids: Sequence[int]
    config: GenerationConfig
    forbidden: Sequence[IdRange] = ()
    images: torch.Tensor | None = None
    image_start: int = 0

    def budget(self, longest: int) -> int:
        """Return how many tokens the answer may have, at least 0, in a model of `longest` positions."""
        config = self.config
        room = min(config.max_length, longest) - len(self.token_ids)
        return max(0, room if config.max_new_tokens is None else min(room, config.max_new_tokens))


Event = tuple[Request, Step | GenerationError]


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


class Batch:
    """Rows for answers, of which the first ones are in use. Not for several threads at once.

    Args:
        network: answers.
        rows: the most answers at a time.
        capacity: the most tokens of a prompt and its answer.
        end_id: the token that ends an answer.

    Raises:
        GenerationError: the device's memory does not suffice.
    """

    def __init__(self, network: Network, rows: int, capacity: int, end_id: int) -> None:
        self.network = network
        self.capacity = min(capacity, network.max_sequence_length)
        self.free = rows
        self.requests: list[Request] = []
        with memory_explained():
            self.decoder = make_decoder(network, rows, self.capacity)
            self.sampler = Sampler(rows, network.vocabulary, self.capacity, end_id, network.device)
        self.end_id = end_id
        self.tokens = torch.zeros(rows, dtype=torch.long, device=network.device)

    @torch.inference_mode()
    def begin(self, request: Request) -> list[Event]:
        """Read a prompt and return the first token of its answer; there must be a free row.

        Raises:
            GenerationError: the device's memory does not suffice; the other answers can go on.
        """
        budget, row = request.budget(self.capacity), len(self.requests)
        if budget == 0:
            return [(request, Step(None, "length"))]
        prompt = torch.tensor([request.token_ids], device=self.network.device)
        with memory_explained():
            logits = self.decoder.prefill(row, prompt, request.images, request.image_start)
        self.sampler.begin(row, request.config, request.forbidden, prompt.shape[1], budget)
        self.requests.append(request)
        self.free -= 1
        self.tokens[row : row + 1] = self.sampler.sample(logits, first=row)
        return self._take([row])

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Write the next token of every answer, and return it; ended answers leave their rows."""
        count = len(self.requests)
        logits = self.decoder.decode(self.tokens[:count])
        self.tokens[:count] = self.sampler.sample(logits)
        return self._take(range(count))

    def cancel(self, request: Request) -> None:
        """Free the row of an answer that nobody waits for; one that has ended already has none."""
        if request in self.requests:
            self._remove(self.requests.index(request))

    def _take(self, rows: Sequence[int]) -> list[Event]:
        """Read the new tokens of some rows from the device."""
        tokens = self.tokens[rows[0] : rows[-1] + 1].tolist()
        events = [(self.requests[row], self._judge(row, token)) for row, token in zip(rows, tokens, strict=True)]
        for row, (_, step) in sorted(zip(rows, events, strict=True), key=lambda pair: -pair[0]):
            if isinstance(step, GenerationError):
                self.decoder.clear(row)
            if isinstance(step, GenerationError) or step.finish_reason is not None:
                self._remove(row)
        return events

    def _judge(self, row: int, token: int) -> Step | GenerationError:
        if token == BROKEN:
            return GenerationError(
                "The model's logits are not numbers (NaN). In float16 that is usually an overflow: "
                "try bfloat16 or float32, and check that the weights loaded are complete."
            )
        if token == self.end_id:
            return Step(None, "stop")
        ended = self.sampler.drawn[row] == self.requests[row].budget(self.capacity)
        return Step(token, "length" if ended else None)

    def _remove(self, row: int) -> None:
        """Put the last row in the place of this one."""
        last = len(self.requests) - 1
        if row != last:
            self.decoder.move(last, row)
            self.sampler.move(last, row)
            self.tokens[row] = self.tokens[last]
            self.requests[row] = self.requests[last]
        self.requests.pop()
        self.free += 1

"""Write answers side by side: they begin and end between steps, each with settings of its own."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat

import torch

from ..errors import GenerationError
from ..kernels.dispatch import has_triton
from ..kernels.torch_ops import Restore
from ..resource_errors import is_out_of_memory
from .cuda_graph import ATTENTION_BUCKET, BATCH_BUCKETS, CACHE_GROWTH, CudaGraphs, pad_to_bucket, round_up
from .decoder import Decoder, EagerDecoder, FallbackDecoder, Prefill
from .layers import Layers
from .network import Network, has_foreign_hooks
from .sampling import NAN_TOKEN, Sampler, SamplingPlan
from .sequence import Request, RequestOutput, TokenOutput


@dataclass(eq=False)
class RunningSequence:
    """An answer that is being written.

    Attributes:
        budget: tokens that it may have.
        drawn: tokens drawn so far, of which the last may not have been read from the device yet.
        read: tokens read so far.
        ended: whether it has left the batch.
    """

    request: Request
    budget: int
    drawn: int = 0
    read: int = 0
    ended: bool = False

    @property
    def length(self) -> int:
        """Tokens in the cache after the next step."""
        return len(self.request.token_ids) + self.drawn


@dataclass
class PrefillBatch:
    """Prompts that are being read, layer by layer, into the rows from `first` on.

    Attributes:
        tokens: their tokens together.
    """

    rows: list[RunningSequence]
    first: int
    work: Prefill
    tokens: int


@dataclass
class PendingStep:
    """A step whose tokens are on their way from the device."""

    rows: list[RunningSequence]
    tokens: torch.Tensor
    landed: Callable[[], object] = field(default=lambda: None)


# A step may have been started when its row turns out to have ended.
LOOKAHEAD = 1


@contextmanager
def translate_oom() -> Iterator[None]:
    """Turn a device's want of memory into an error for a person."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise GenerationError(
            "The device has too little memory left for this prompt. Lower max_length, shorten the conversation, "
            "or end other programs that use the device."
        ) from error


class Batch:
    """Rows for answers, of which the first ones are in use. Not for several threads at once.

    On a GPU a step is a CUDA graph, and the next one is started before the tokens of the last are looked at. Memory
    grows with the rows and the room that are asked for, and stays.

    Args:
        network: answers.
        rows: the most answers at a time.
        capacity: the most tokens of a prompt and its answer.
        end_id: the token that ends an answer.
    """

    def __init__(self, network: Network, rows: int, capacity: int, eos_token_id: int) -> None:
        self.network = network
        self.most = rows
        self.capacity = min(capacity, network.max_sequence_length)
        self.rows: list[RunningSequence] = []
        self.opening: PrefillBatch | None = None
        self.flight: PendingStep | None = None
        self.eos_token_id = eos_token_id
        self.decoder = make_decoder(network)
        self.graphs = CudaGraphs()
        self.room = 0
        self.sampler = Sampler(0, network.vocab_size, 0, eos_token_id, network.device)
        self.tokens = torch.zeros(0, dtype=torch.long, device=network.device)

    @property
    def requests(self) -> list[Request]:
        """What is being answered."""
        return [row.request for row in self.rows]

    @property
    def free(self) -> int:
        """How many answers can begin now; none while prompts are being read."""
        return 0 if self.opening else self.most - len(self.rows)

    def begin(self, *requests: Request) -> list[RequestOutput]:
        """Read prompts and return the first token of each answer; there must be as many free rows.

        Raises:
            GenerationError: the device's memory does not suffice; the other answers can go on.
        """
        events = self.open(*requests)
        return events + (self.read() if self.opening else [])

    @torch.inference_mode()
    def open(self, *requests: Request) -> list[RequestOutput]:
        """Make ready to read prompts; return the ends of those that have no room for an answer.

        Raises:
            GenerationError: the device's memory does not suffice; the other answers can go on.
        """
        rows = [RunningSequence(request, request.budget(self.capacity)) for request in requests]
        fitting = [row for row in rows if row.budget]
        if fitting:
            with translate_oom():
                self._grow(len(self.rows) + len(fitting), max(len(r.request.token_ids) + r.budget for r in fitting))
            prompts = [row.request for row in fitting]
            work = self.decoder.prefill(len(self.rows), prompts)
            self.opening = PrefillBatch(fitting, len(self.rows), work, sum(len(prompt.token_ids) for prompt in prompts))
        return [(row.request, TokenOutput(None, "length")) for row in rows if not row.budget]

    @torch.inference_mode()
    def read(self, layers: int | None = None) -> list[RequestOutput]:
        """Go on reading the opened prompts, so many layers or to the end; return their first tokens when done.

        Raises:
            GenerationError: the device's memory does not suffice; the prompts are given up.
        """
        opening = self.opening
        assert opening is not None, "nothing is opened"
        try:
            with translate_oom():
                for _ in repeat(None) if layers is None else repeat(None, layers):
                    next(opening.work)
            return []
        except StopIteration as done:
            return self._join(opening, done.value)
        except BaseException:
            self.opening = None
            raise

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        """Write the next token of every answer, and return it; ended answers leave their rows.

        Raises:
            GenerationError: the device's memory does not suffice.
        """
        with translate_oom():
            flight = self.flight or self._launch()
            # None is started that nobody could want: a prompt that comes now would wait for it.
            goes_on = self.decoder.is_graph_capturable and any(row.drawn < row.budget for row in self.rows)
            self.flight = self._launch() if goes_on else None
            return self._land(flight)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Free the row of an answer that nobody waits for; one that has ended already has none."""
        for row in self.rows:
            if row.request is request:
                self._remove(row)
                return
        for row in self.opening.rows if self.opening else []:
            row.ended = row.ended or row.request is request

    def _grow(self, rows: int, room: int) -> None:
        """Make room for so many rows, each of so many tokens."""
        have = len(self.tokens)
        if rows <= have and room <= self.room:
            return
        wanted = have if rows <= have else min(self.most, pad_to_bucket(rows, BATCH_BUCKETS))
        room = max(self.room, min(round_up(room, CACHE_GROWTH), self.capacity))
        self.graphs.clear()
        self.decoder.grow(wanted, room + LOOKAHEAD)
        self.sampler = self.sampler.grown(wanted, room)
        tokens = torch.zeros(wanted, dtype=torch.long, device=self.network.device)
        tokens[:have] = self.tokens
        self.tokens, self.room = tokens, room  # only now is it there

    def _join(self, opening: PrefillBatch, logits: torch.Tensor) -> list[RequestOutput]:
        """Let the rows whose prompts have been read join the others; return their first tokens."""
        self.opening = None
        first = len(self.rows)
        for number, row in enumerate(opening.rows if opening.first != first else ()):  # others have ended meanwhile
            self.decoder.move(opening.first + number, first + number, len(row.request.token_ids))
        self.sampler.begin(first, [row.request for row in opening.rows], [row.budget for row in opening.rows])
        self.rows += opening.rows
        self._draw(logits, self.sampler.plan((row.request, 0) for row in opening.rows), first)
        for row in opening.rows:
            row.drawn += 1
        events = self._land(self._depart(first))
        for row in [row for row in opening.rows if row.ended and row in self.rows]:
            self._remove(row)  # was cancelled while its prompt was read
        return events

    def _launch(self) -> PendingStep:
        """Start the next step of every row."""
        count = len(self.rows)
        longest = max(row.length for row in self.rows)
        plan = self.sampler.plan((row.request, row.drawn) for row in self.rows)
        if self.decoder.is_graph_capturable:
            count = min(pad_to_bucket(count, BATCH_BUCKETS), len(self.tokens))
            longest = min(round_up(longest, ATTENTION_BUCKET), self.room + LOOKAHEAD)
            self.graphs.run((count, longest, plan), lambda: self._advance(count, longest, plan), self._snapshot)
        else:
            self._advance(count, longest, plan)
        for row in self.rows:
            row.drawn += 1
        return self._depart(0)

    def _advance(self, count: int, longest: int, plan: SamplingPlan) -> None:
        self._draw(self.decoder.decode(self.tokens[:count].clamp(min=0), longest), plan, 0)

    def _draw(self, logits: torch.Tensor, plan: SamplingPlan, first: int) -> None:
        self.tokens[first : first + len(logits)] = self.sampler.sample(logits, plan, first)

    def _snapshot(self) -> Restore:
        """Return what undoes a step, but for the keys and values: the next one stores the same."""
        changed = [self.tokens, self.sampler.drawn, self.sampler.seen, *self.decoder.counters()]
        before = [tensor.clone() for tensor in changed]

        def restore() -> None:
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)

        return restore

    def _depart(self, first: int) -> PendingStep:
        """Send the new tokens of the rows from `first` on to the CPU."""
        rows = self.rows[first:]
        tokens = self.tokens[first : first + len(rows)]
        if tokens.device.type != "cuda":
            return PendingStep(rows, tokens)
        pinned = torch.empty(len(rows), dtype=torch.long, pin_memory=True)
        pinned.copy_(tokens, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return PendingStep(rows, pinned, event.synchronize)

    def _land(self, flight: PendingStep) -> list[RequestOutput]:
        """Read the tokens of a step; answers that have ended since it was started count no more."""
        flight.landed()
        events: list[RequestOutput] = []
        for row, token in zip(flight.rows, flight.tokens.tolist(), strict=True):
            if row.ended:
                continue
            row.read += 1
            step = self._judge(row, token)
            events.append((row.request, step))
            if isinstance(step, GenerationError):
                self.decoder.clear(self.rows.index(row))
            if isinstance(step, GenerationError) or step.finish_reason is not None:
                self._remove(row)
        return events

    def _judge(self, row: RunningSequence, token: int) -> TokenOutput | GenerationError:
        if token == NAN_TOKEN:
            return GenerationError(
                "The model's logits are not numbers (NaN). In float16 that is usually an overflow: "
                "try bfloat16 or float32, and check that the weights loaded are complete."
            )
        if token == self.eos_token_id:
            return TokenOutput(None, "stop")
        return TokenOutput(token, "length" if row.read == row.budget else None)

    def _remove(self, row: RunningSequence) -> None:
        """Put the last row in the place of this one."""
        row.ended = True
        place, last = self.rows.index(row), len(self.rows) - 1
        if place != last:
            self.decoder.move(last, place, self.rows[last].length)
            self.sampler.move(last, place)
            self.tokens[place] = self.tokens[last]
            self.rows[place] = self.rows[last]
        else:
            self.decoder.free(last)
        self.rows.pop()
        if not self.rows:
            self.flight = None


def make_decoder(network: Network) -> Decoder:
    """Choose how to run `network`."""
    if has_foreign_hooks(network):
        log_once(
            "A mixin or a hook changes this model's forward pass, so answers come from the whole model, "
            "row by row: more slowly than from its layers."
        )
        return FallbackDecoder(network)
    layers = Layers(network)
    if network.device.type == "cuda" and has_triton(network.device) and supports_head_dim(layers.head_dim):
        from .graph_decoder import CudaGraphDecoder  # imports triton

        return CudaGraphDecoder(layers)
    return EagerDecoder(layers)


@functools.cache
def log_once(message: str) -> None:
    """Log a message, once in a program."""
    logging.getLogger(__name__).warning(message)


def supports_head_dim(head_dim: int) -> bool:
    """Whether the GPU's kernels take heads of this width, a power of two."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0

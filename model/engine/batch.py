"""Continuous batching: sequences join and leave the batch between decode steps, with their own sampling parameters."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

import torch

from ..errors import GenerationError
from ..kernels.dispatch import has_triton
from ..kernels.torch_ops import Restore
from ..resource_errors import is_out_of_memory
from .cuda_graph import ATTENTION_BUCKET, BATCH_BUCKETS, CACHE_GROWTH, CudaGraphs, pad_to_bucket, round_up
from .decoder import Decoder, EagerDecoder, FallbackDecoder, Prefill
from .layers import Layers
from .logprobs import LogprobBuffers, TokenLogprobs, to_logprobs
from .network import Network, has_foreign_hooks
from .pending_step import PendingStep, copy_results
from .sampling import NAN_TOKEN, Sampler, SamplingPlan
from .sequence import Request, RequestOutput, RunningSequence, TokenOutput


@dataclass
class PrefillBatch:
    """Prompts that are being prefilled, layer by layer, into consecutive slots.

    Attributes:
        first_slot: slot of the first sequence.
        prefill: the prefill, as an iterator that advances by one layer.
        num_tokens: total number of prompt tokens.
    """

    sequences: list[RunningSequence]
    first_slot: int
    prefill: Prefill
    num_tokens: int


# Extra KV cache positions per slot: a step that was launched ahead still runs for a sequence that has just finished.
LOOKAHEAD = 1


@contextmanager
def translate_oom() -> Iterator[None]:
    """Translate an out-of-memory error of the device into a GenerationError."""
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
    """A batch of running sequences, which occupy the first slots. Not thread-safe.

    On a GPU, a decode step is a CUDA graph, and the next step is launched before the tokens of the last one are
    inspected. Memory grows with the batch size and the longest sequence, and is kept, except the KV cache on a GPU.

    Args:
        network: the model.
        max_batch_size: maximum number of running sequences.
        capacity: maximum number of tokens of a prompt and its answer; at most the network's maximum sequence length.
        eos_token_id: the token that ends an answer.

    Attributes:
        sequences: the running sequences, in the order of their slots.
        prefilling: the prompts that are being prefilled, None if there are none.
        pending: the decode step that was launched ahead, None if there is none.
        cache_capacity: maximum number of tokens of a slot.
        tokens: int64 [slots], the last sampled token of each slot.
        logprobs: the log-probabilities of these tokens.
    """

    def __init__(self, network: Network, max_batch_size: int, capacity: int, eos_token_id: int) -> None:
        self.network = network
        self.max_batch_size = max_batch_size
        self.capacity = min(capacity, network.max_sequence_length)
        self.sequences: list[RunningSequence] = []
        self.prefilling: PrefillBatch | None = None
        self.pending: PendingStep | None = None
        self.eos_token_id = eos_token_id
        self.decoder = make_decoder(network)
        self.graphs = CudaGraphs()
        self.cache_capacity = 0
        self.sampler = Sampler(0, network.vocab_size, 0, eos_token_id, network.device)
        self.tokens = torch.zeros(0, dtype=torch.long, device=network.device)
        self.logprobs = LogprobBuffers(0, network.device)

    @property
    def requests(self) -> list[Request]:
        """The requests of the running sequences."""
        return [sequence.request for sequence in self.sequences]

    @property
    def free_slots(self) -> int:
        """How many sequences can be added now; 0 during a prefill."""
        return 0 if self.prefilling else self.max_batch_size - len(self.sequences)

    def add(self, *requests: Request) -> list[RequestOutput]:
        """Prefill prompts and return the first token of each; needs as many free slots.

        Raises:
            GenerationError: the device is out of memory; the running sequences can continue.
        """
        outputs = self.start_prefill(*requests)
        return outputs + (self.continue_prefill() if self.prefilling else [])

    @torch.inference_mode()
    def start_prefill(self, *requests: Request) -> list[RequestOutput]:
        """Allocate slots and prepare a prefill; return final outputs for prompts that leave no tokens for an answer.

        Raises:
            GenerationError: the device is out of memory; the running sequences can continue.
        """
        sequences = [RunningSequence(request, request.max_new_tokens(self.capacity)) for request in requests]
        fitting = [sequence for sequence in sequences if sequence.max_new_tokens]
        if fitting:
            lengths = [len(one.request.token_ids) + one.max_new_tokens for one in fitting]
            with translate_oom():
                self._grow(len(self.sequences) + len(fitting), max(lengths))
                self.decoder.reserve(len(self.sequences), [length + LOOKAHEAD for length in lengths])
            prompts = [sequence.request for sequence in fitting]
            prefill = self.decoder.prefill(len(self.sequences), prompts)
            num_tokens = sum(len(prompt.token_ids) for prompt in prompts)
            self.prefilling = PrefillBatch(fitting, len(self.sequences), prefill, num_tokens)
        return [(one.request, TokenOutput(None, "length")) for one in sequences if not one.max_new_tokens]

    @torch.inference_mode()
    def continue_prefill(self, layers: int | None = None) -> list[RequestOutput]:
        """Run the started prefill for some layers; return the first tokens once it is complete.

        Args:
            layers: number of layers to run; None for all that are left.

        Raises:
            GenerationError: the device is out of memory; the prefill is dropped.
        """
        prefilling = self.prefilling
        assert prefilling is not None, "no prefill was started"
        try:
            with translate_oom():
                for _ in repeat(None) if layers is None else repeat(None, layers):
                    next(prefilling.prefill)
            return []
        except StopIteration as done:
            return self._finish_prefill(prefilling, done.value)
        except BaseException:
            self.prefilling = None
            raise

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        """Run one decode step and return the next token of every sequence; finished sequences leave their slots.

        Raises:
            GenerationError: the device is out of memory.
        """
        with translate_oom():
            pending = self.pending or self._launch()
            # Do not launch a step ahead when every sequence has reached its limit: it would only delay the next
            # prefill.
            launch_ahead = self.decoder.is_graph_capturable and any(
                one.num_sampled < one.max_new_tokens for one in self.sequences
            )
            self.pending = self._launch() if launch_ahead else None
            return self._collect(pending)

    @torch.inference_mode()
    def cancel(self, request: Request) -> None:
        """Remove the sequence of a cancelled request; does nothing if it has finished already."""
        for sequence in self.sequences:
            if sequence.request is request:
                self._remove(sequence)
                return
        for sequence in self.prefilling.sequences if self.prefilling else []:
            sequence.finished = sequence.finished or sequence.request is request

    def _grow(self, batch_size: int, capacity: int) -> None:
        """Allocate at least `batch_size` slots of at least `capacity` tokens each.

        With CUDA graphs, all slots are allocated at once, because a growth drops the graphs: while the number of users
        rises, each would be captured many times. A slot has its own KV cache only while it is occupied.
        """
        allocated = len(self.tokens)
        if batch_size <= allocated and capacity <= self.cache_capacity:
            return
        if self.decoder.is_graph_capturable:
            wanted, capacity = max(allocated, self.max_batch_size), self.capacity
        else:
            wanted = max(allocated, min(self.max_batch_size, pad_to_bucket(batch_size, BATCH_BUCKETS)))
            capacity = max(self.cache_capacity, min(round_up(capacity, CACHE_GROWTH), self.capacity))
        self.graphs.clear()
        self.decoder.grow(wanted, capacity + LOOKAHEAD)
        self.sampler = self.sampler.grown(wanted, capacity)
        self.logprobs = LogprobBuffers(wanted, self.network.device)
        tokens = torch.zeros(wanted, dtype=torch.long, device=self.network.device)
        tokens[:allocated] = self.tokens
        self.tokens, self.cache_capacity = tokens, capacity  # last, because the allocations may fail

    def _finish_prefill(self, prefilling: PrefillBatch, logits: torch.Tensor) -> list[RequestOutput]:
        """Add the prefilled sequences to the batch; return their first tokens."""
        self.prefilling = None
        first, new = len(self.sequences), prefilling.sequences
        if prefilling.first_slot != first:  # sequences have finished during the prefill
            for index, sequence in enumerate(new):
                self.decoder.move(prefilling.first_slot + index, first + index, len(sequence.request.token_ids))
        self.sampler.init_slots(first, [one.request for one in new], [one.max_new_tokens for one in new])
        self.sequences += new
        plan = self.sampler.plan((sequence.request, 0) for sequence in new)
        self._sample(logits, plan, first)
        for sequence in new:
            sequence.num_sampled += 1
        outputs = self._collect(self._copy_tokens_async(first, plan.num_top_logprobs))
        for sequence in [one for one in new if one.finished and one in self.sequences]:
            self._remove(sequence)  # cancelled during the prefill
        return outputs

    def _launch(self) -> PendingStep:
        """Launch the next decode step of all sequences."""
        batch_size = len(self.sequences)
        longest = max(sequence.length for sequence in self.sequences)
        plan = self.sampler.plan((sequence.request, sequence.num_sampled) for sequence in self.sequences)
        if self.decoder.is_graph_capturable:
            batch_size = min(pad_to_bucket(batch_size, BATCH_BUCKETS), len(self.tokens))
            longest = min(round_up(longest, ATTENTION_BUCKET), self.cache_capacity + LOOKAHEAD)
            key = batch_size, longest, plan
            self.graphs.run(key, lambda: self._decode_step(batch_size, longest, plan), self._snapshot)
        else:
            self._decode_step(batch_size, longest, plan)
        for sequence in self.sequences:
            sequence.num_sampled += 1
        return self._copy_tokens_async(0, plan.num_top_logprobs)

    def _decode_step(self, batch_size: int, longest: int, plan: SamplingPlan) -> None:
        self._sample(self.decoder.decode(self.tokens[:batch_size].clamp(min=0), longest), plan, 0)

    def _sample(self, logits: torch.Tensor, plan: SamplingPlan, first: int) -> None:
        tokens = self.tokens[first : first + len(logits)]
        tokens[:] = self.sampler.sample(logits, plan, first)
        if plan.num_top_logprobs is not None:
            self.logprobs.write(logits, tokens, first, plan.num_top_logprobs)

    def _snapshot(self) -> Restore:
        """Return a function that undoes a decode step, except in the KV cache: the next step overwrites that entry."""
        changed = [self.tokens, self.sampler.num_sampled, self.sampler.seen, *self.decoder.counters()]
        before = [tensor.clone() for tensor in changed]

        def restore() -> None:
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)

        return restore

    def _copy_tokens_async(self, first: int, num_top_logprobs: int | None) -> PendingStep:
        """Start the copy of the new tokens of the slots from `first` on, and of their log-probabilities, to the CPU."""
        sequences = self.sequences[first:]
        results = [self.tokens[first : first + len(sequences)]]
        if num_top_logprobs is not None:
            results += self.logprobs.parts(first, len(sequences), num_top_logprobs)
        return copy_results(sequences, *results)

    def _collect(self, pending: PendingStep) -> list[RequestOutput]:
        """Wait for the tokens of a step and return them; skip sequences that have finished since its launch."""
        pending.wait()
        outputs: list[RequestOutput] = []
        logprobs = to_logprobs(pending.logprobs) if pending.logprobs else repeat(None)
        for sequence, token, logprob in zip(pending.sequences, pending.tokens.tolist(), logprobs, strict=False):
            if sequence.finished:
                continue
            sequence.num_collected += 1
            output = self._to_output(sequence, token, logprob)
            outputs.append((sequence.request, output))
            if isinstance(output, GenerationError):
                self.decoder.clear(self.sequences.index(sequence))
            if isinstance(output, GenerationError) or output.finish_reason is not None:
                self._remove(sequence)
        return outputs

    def _to_output(
        self, sequence: RunningSequence, token: int, logprobs: TokenLogprobs | None
    ) -> TokenOutput | GenerationError:
        if token == NAN_TOKEN:
            return GenerationError(
                "The model's logits are not numbers (NaN). In float16 that is usually an overflow: "
                "try bfloat16 or float32, and check that the weights loaded are complete."
            )
        if token == self.eos_token_id:
            return TokenOutput(None, "stop")
        finish_reason = "length" if sequence.num_collected == sequence.max_new_tokens else None
        wanted = sequence.request.config.top_logprobs
        if wanted is None or logprobs is None:
            return TokenOutput(token, finish_reason)
        return TokenOutput(token, finish_reason, TokenLogprobs(logprobs.logprob, logprobs.top[:wanted]))

    def _remove(self, sequence: RunningSequence) -> None:
        """Remove a sequence; the last sequence moves into its slot."""
        sequence.finished = True
        slot, last = self.sequences.index(sequence), len(self.sequences) - 1
        if slot != last:
            self.decoder.move(last, slot, self.sequences[last].length)
            self.sampler.move(last, slot)
            self.tokens[slot] = self.tokens[last]
            self.sequences[slot] = self.sequences[last]
        else:
            self.decoder.free(last)
        self.sequences.pop()
        if not self.sequences:
            self.pending = None


def make_decoder(network: Network) -> Decoder:
    """Choose the decoder: fallback for foreign hooks, CUDA graphs where Triton works, otherwise eager."""
    if has_foreign_hooks(network):
        log_once(
            "A mixin or a hook changes this model's forward pass, so each sequence is decoded by the complete model "
            "on its own. This is slower than batched decoding of the layers."
        )
        return FallbackDecoder(network)
    layers = Layers(network)
    if network.device.type == "cuda" and has_triton(network.device) and supports_head_dim(layers.head_dim):
        from .graph_decoder import CudaGraphDecoder  # imports triton

        return CudaGraphDecoder(layers)
    return EagerDecoder(layers)


@functools.cache
def log_once(message: str) -> None:
    """Log each warning at most once per process."""
    logging.getLogger(__name__).warning(message)


def supports_head_dim(head_dim: int) -> bool:
    """Return whether the GPU's attention kernels support this head dimension: a power of two, at least 16."""
    return head_dim >= 16 and head_dim & (head_dim - 1) == 0

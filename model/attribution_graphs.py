"""Score given answers for attribution by the engine's layers, on a GPU by CUDA graphs.

Launched one by one, the kernels of the forward and backward passes take the host several times as long as the GPU.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from .attribution import MAX_PEAKS, Relevance, Scorer
from .engine.cuda_graph import CudaGraphs, pad_to_bucket, round_up
from .engine.layers import weights_fingerprint
from .engine.network import Network
from .engine.teacher_forcing import INDEX_FIELDS, AnswerNumbers, TeacherForcing
from .images.encoder_layers import EncoderLayers

T = TypeVar("T")

LENGTH_STEP = 32  # prompts and answers are padded to multiples of it, because each length has graphs of its own
BATCH_BUCKETS = (3, 4, 6, MAX_PEAKS)  # numbers of covered images are padded to these
MAX_GRAPHS = 16  # if there would be more, all are dropped


class AnswerScorers:
    """Makes the scorers of the answers of one network.

    Args:
        network: see `TeacherForcing` and `encoder_layers.can_run`.
    """

    def __init__(self, network: Network) -> None:
        self.device = network.device
        self.encode = EncoderLayers(network)
        self.language_model = TeacherForcing(network)
        self.graphs = CudaGraphs()
        self.has_graphs = self.device.type == "cuda"
        self.lock = threading.Lock()  # of the buffers, which the graphs read
        side = network.image_size
        self.pixels = torch.zeros(MAX_PEAKS, 3, side, side, device=self.device, dtype=network.dtype)
        size = INDEX_FIELDS + 2 * round_up(network.max_sequence_length, LENGTH_STEP)
        self.numbers = torch.zeros(size, dtype=torch.long, device=self.device)

    @contextmanager
    def scorer(self, prompt_ids: Sequence[int], image_start: int, answer_ids: Sequence[int]) -> Iterator[Scorer]:
        """Context manager: the scorer of an answer; on a GPU, other threads wait for their own."""
        if not self.has_graphs:
            numbers = AnswerNumbers.pack(prompt_ids, image_start, answer_ids, 1)
            yield self._eager(numbers, torch.tensor(numbers.values, device=self.device))
            return
        numbers = AnswerNumbers.pack(prompt_ids, image_start, answer_ids, LENGTH_STEP)
        with self.lock, torch.cuda.device_of(self.numbers):
            self.numbers[: len(numbers.values)].copy_(torch.tensor(numbers.values))
            yield GraphedScorer(self, self._eager(numbers, self.numbers), numbers, len(answer_ids))

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """Run a function by its graph; if it cannot be captured, directly, and so from now on."""
        if not self.has_graphs:
            return function()
        if len(self.graphs.graphs) >= MAX_GRAPHS and key not in self.graphs.graphs:
            self.graphs.clear()
        try:
            return self.graphs.run(key, function)
        except RuntimeError as error:
            warnings.warn(f"Explanations cannot be captured in CUDA graphs and are slower: {error}", stacklevel=2)
            self.has_graphs = False
            self.graphs.clear()
            return function()

    def _eager(self, numbers: AnswerNumbers, tensor: torch.Tensor) -> Scorer:
        return Scorer(self.encode, partial(self.language_model.score, answer=numbers.view(tensor)))


class GraphedScorer(Scorer):
    """A scorer whose functions run by CUDA graphs.

    Args:
        scorers: has the buffers and the graphs.
        eager: computes the functions that are captured, on the buffers.
        numbers: in the buffer of `scorers`.
        count: tokens of the answer, without padding.
    """

    def __init__(self, scorers: AnswerScorers, eager: Scorer, numbers: AnswerNumbers, count: int) -> None:
        super().__init__(eager.encode, eager.score_embeddings)
        self.scorers, self.eager, self.count = scorers, eager, count
        self.shape = numbers.num_ids, numbers.num_targets

    def find_relevance(self, pixels: torch.Tensor) -> Relevance:
        """Return the relevance of the patches; the tensors are valid until the next call."""
        function = partial(self.eager.find_relevance, self._fill(pixels, 1))
        found = self.scorers.run(("relevance", *self.shape), function)
        return Relevance(found.relevance, found.logprobs[: self.count], found.reliance[: self.count])

    def score(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the answer's tokens; the tensor is valid until the next call."""
        size = pad_to_bucket(len(pixels), BATCH_BUCKETS)
        function = partial(self.eager.score, self._fill(pixels, size))
        return self.scorers.run(("score", size, *self.shape), function)[: len(pixels), : self.count]

    def _fill(self, pixels: torch.Tensor, size: int) -> torch.Tensor:
        """Copy images into the buffer; return its first `size` images."""
        self.scorers.pixels[: len(pixels)].copy_(pixels)
        return self.scorers.pixels[:size]


_lock = threading.Lock()
_scorers: "weakref.WeakKeyDictionary[Network, tuple[object, AnswerScorers]]" = weakref.WeakKeyDictionary()


def get_scorers(network: Network) -> AnswerScorers:
    """Return the shared scorers of a network; they do not keep it alive. Moved or replaced weights get new ones."""
    vision_pointer = next(network.vision_encoder.parameters()).data_ptr()
    fingerprint = weights_fingerprint(network), vision_pointer
    with _lock:
        known = _scorers.get(network)
        if known is None or known[0] != fingerprint:
            known = _scorers[network] = fingerprint, AnswerScorers(weakref.proxy(network))
        return known[1]

"""Short prompts as a CUDA graph reads them: padded, in one place, and brought there by few copies.

The host takes some 10 us for each copy or kernel that it starts, one prompt after another while the GPU has nothing to
do. So all numbers of all prompts come in one copy, and whatever follows from them is computed on the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .cuda_graph import MAX_PREFILL_TOKENS, PREFILL_BATCH_BUCKETS
from .network import Network
from .sequence import Request


class PaddedPrompts(NamedTuple):
    """Prompts on the device, n of them. Those that only fill up are as the first one, but fill no place.

    Attributes:
        rows: int64 [n], of the cache.
        contexts: int64 [n], tokens before <sop>.
        filled: int64 [n], places of the row that are filled when the context has been read; -1 where none is to be.
        pictures: int64 [n], tokens before the picture; more than there are where it has none.
        ids: int64 [n, length + 1], of the context, padded, and of <sop> in the end.
    """

    rows: torch.Tensor
    contexts: torch.Tensor
    filled: torch.Tensor
    pictures: torch.Tensor
    ids: torch.Tensor


INDEX_FIELDS = len(PaddedPrompts._fields) - 1  # beside the ids


class PrefillInputs:
    """Places for prompts that are read together, see `cuda_graph.fits_prefill_graph`.

    Args:
        network: that reads them.
        width: D, of an embedded token.
    """

    def __init__(self, network: Network, width: int) -> None:
        self.network = network
        shape = PREFILL_BATCH_BUCKETS[-1], network.image_length, width
        self.images = torch.zeros(shape, device=network.device, dtype=network.dtype)
        self.numbers = torch.zeros(
            MAX_PREFILL_TOKENS + INDEX_FIELDS * PREFILL_BATCH_BUCKETS[-1], dtype=torch.long, device=network.device
        )

    def place(self, first: int, requests: Sequence[Request], count: int, length: int, start: int) -> None:
        """Bring prompts here, for the rows from `first` on.

        Args:
            count, length: so many prompts, and tokens of each context, they are padded to.
            start: places of a row that are filled before the prompt.
        """
        given, spare = len(requests), count - len(requests)
        padded = [*requests, *[requests[0]] * spare]
        contexts = [len(request.token_ids) - 1 for request in padded]
        numbers = [*range(first, first + given), *[first] * spare]
        numbers += contexts
        numbers += [*(start + context for context in contexts[:given]), *[-1] * spare]
        numbers += [length + 1 if request.images is None else request.image_start for request in padded]
        for request, context in zip(padded, contexts, strict=True):
            numbers += [*request.token_ids[:-1], *[0] * (length - context), request.token_ids[-1]]
        self.numbers[: len(numbers)].copy_(torch.tensor(numbers), non_blocking=True)
        images = {number: one.images[0] for number, one in enumerate(requests) if one.images is not None}
        if images:
            torch._foreach_copy_([self.images[number] for number in images], list(images.values()))

    def placed(self, count: int, length: int) -> PaddedPrompts:
        """Return the prompts that were brought here with these sizes."""
        fields, ids = self.numbers[: count * (INDEX_FIELDS + length + 1)].split(
            (INDEX_FIELDS * count, count * (length + 1))
        )
        rows, contexts, filled, pictures = fields.view(INDEX_FIELDS, count)
        return PaddedPrompts(rows, contexts, filled, pictures, ids.view(count, length + 1))

    def embed(self, placed: PaddedPrompts) -> torch.Tensor:
        """Return the embedded prompts [n * length + n, D], pictures and all: the contexts, then the <sop> of each."""
        count, width = placed.ids.shape
        embedded = self.network.embed_tokens(placed.ids.flatten()).view(count, width, -1)
        device, last = placed.ids.device, self.images.shape[1] - 1
        place = torch.arange(width, device=device) - placed.pictures[:, None]  # of a picture's vectors
        images = self.images[torch.arange(count, device=device)[:, None], place.clamp(0, last)]
        x = embedded.where(((place < 0) | (place > last))[..., None], images)
        return torch.cat((x[:, :-1].flatten(0, 1), x[:, -1]))

"""Static input buffers for the captured prefill of short prompts, filled by few copies.

The host needs about 10 us for each copy or kernel launch, during which the GPU idles. So one copy transfers all numbers
of all prompts, and everything derived from them is computed on the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .cuda_graph import MAX_PREFILL_TOKENS, PREFILL_BATCH_BUCKETS
from .network import Network
from .sequence import Request


class PaddedPrompts(NamedTuple):
    """A padded batch of n prompts on the device.

    Padding prompts repeat the first one and write nothing to the cache.

    Attributes:
        slots: int64 [n], slot of each prompt in the KV cache.
        contexts: int64 [n], context lengths, which are the tokens before <sop>.
        lengths: int64 [n], filled positions of the slot after the context, prefix included; -1 for padding prompts.
        image_starts: int64 [n], index of the first image token; length + 1 for a prompt without an image.
        ids: int64 [n, length + 1], token ids of the padded context, then <sop>.
    """

    slots: torch.Tensor
    contexts: torch.Tensor
    lengths: torch.Tensor
    image_starts: torch.Tensor
    ids: torch.Tensor


INDEX_FIELDS = len(PaddedPrompts._fields) - 1  # all fields but `ids`


class PrefillInputs:
    """Input buffers for prompts that are prefilled by one graph, see `cuda_graph.fits_prefill_graph`.

    Args:
        network: embeds the prompts.
        hidden_size: D, width of an embedded token.
    """

    def __init__(self, network: Network, hidden_size: int) -> None:
        self.network = network
        shape = PREFILL_BATCH_BUCKETS[-1], network.image_length, hidden_size
        self.images = torch.zeros(shape, device=network.device, dtype=network.dtype)
        size = MAX_PREFILL_TOKENS + INDEX_FIELDS * PREFILL_BATCH_BUCKETS[-1]
        self.numbers = torch.zeros(size, dtype=torch.long, device=network.device)

    def copy_in(self, first: int, requests: Sequence[Request], count: int, length: int, prefix_length: int) -> None:
        """Copy prompts for the slots from `first` on into the buffers.

        Args:
            first: slot of the first prompt.
            requests: the prompts.
            count: number of prompts after padding.
            length: context length after padding.
            prefix_length: positions of a slot that are filled before the prompt.
        """
        given, padding = len(requests), count - len(requests)
        padded = [*requests, *[requests[0]] * padding]
        contexts = [len(request.token_ids) - 1 for request in padded]
        numbers = [*range(first, first + given), *[first] * padding]
        numbers += contexts
        numbers += [*(prefix_length + context for context in contexts[:given]), *[-1] * padding]
        numbers += [length + 1 if request.images is None else request.image_start for request in padded]
        for request, context in zip(padded, contexts, strict=True):
            numbers += [*request.token_ids[:-1], *[0] * (length - context), request.token_ids[-1]]
        self.numbers[: len(numbers)].copy_(torch.tensor(numbers), non_blocking=True)
        images = {index: one.images[0] for index, one in enumerate(requests) if one.images is not None}
        if images:
            torch._foreach_copy_([self.images[index] for index in images], list(images.values()))

    def view(self, count: int, length: int) -> PaddedPrompts:
        """Return views of the prompts that `copy_in` wrote with the same `count` and `length`."""
        split_sizes = INDEX_FIELDS * count, count * (length + 1)
        fields, ids = self.numbers[: sum(split_sizes)].split(split_sizes)
        slots, contexts, lengths, image_starts = fields.view(INDEX_FIELDS, count)
        return PaddedPrompts(slots, contexts, lengths, image_starts, ids.view(count, length + 1))

    def embed(self, prompts: PaddedPrompts) -> torch.Tensor:
        """Return the embedded prompts [n * length + n, D], with the image embeddings in their positions.

        The rows of all contexts, each padded to `length` tokens, come first; then one row per prompt for its <sop>.
        """
        count, width = prompts.ids.shape
        embedded = self.network.embed_tokens(prompts.ids.flatten()).view(count, width, -1)
        device, last = prompts.ids.device, self.images.shape[1] - 1
        image_index = torch.arange(width, device=device) - prompts.image_starts[:, None]  # into the image embeddings
        images = self.images[torch.arange(count, device=device)[:, None], image_index.clamp(0, last)]
        x = embedded.where(((image_index < 0) | (image_index > last))[..., None], images)
        return torch.cat((x[:, :-1].flatten(0, 1), x[:, -1]))

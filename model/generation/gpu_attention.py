"""How the tokens of a batch look at one another and at what is cached, by kernels for a GPU; see `attention`."""

import torch
import torch.nn.functional as F

from ..kernels.device import attention
from .attention import Attend
from .cache import KVCache

EVERYONE = 2**31


def attend_prompts(cache: KVCache, first: int, contexts: list[int]) -> Attend:
    """Read prompts into the rows from `first` on, as `attention.attend_prompts` does."""
    device = cache.lengths.device
    spans = torch.tensor([0, *contexts]).cumsum(0).tolist()
    rows = torch.cat([torch.full((length,), first + number) for number, length in enumerate(contexts)]).to(device)
    places = torch.cat([torch.arange(length) for length in contexts]).to(device)
    every_row = torch.full((), EVERYONE, device=device)
    from_first = [table[first:] for table in (cache.cos, cache.sin, cache.lengths)]

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        pair = cache.pairs[layer]
        queries = attention.store_tokens(qkv[: spans[-1]], (cache.cos, cache.sin), pair, rows, places)
        found = []
        for number, length in enumerate(contexts):
            row = slice(first + number, first + number + 1)
            query = queries[spans[number] : spans[number + 1]].transpose(0, 1)[None]
            context = F.scaled_dot_product_attention(query, *(part[row, :, :length] for part in pair))
            found.append(context[0].transpose(0, 1).flatten(1))
        cos, sin, lengths = from_first
        later = (pair[0][first:], pair[1][first:])
        last = attention.attend_tokens(qkv[spans[-1] :], (cos, sin), later, lengths, every_row, max(contexts) + 1)
        return torch.cat((*found, last))

    return attend


def attend_tokens(cache: KVCache, count: int, longest: int) -> Attend:
    """Add a token to each of the first `count` rows, as `attention.attend_tokens` does."""

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        angles = cache.cos, cache.sin
        return attention.attend_tokens(qkv, angles, cache.pairs[layer], cache.lengths, cache.used, longest)

    return attend

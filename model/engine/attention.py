"""How the tokens of a batch look at one another and at what is cached, with torch's own operations.

A function that attends takes (layer, qkv [N, 3, H, head_dim]), which is then its own, and returns the context
[N, H x head_dim]; it stores the keys and values that it is given. On a GPU, prompt_attention.py and token_attention.py
of `kernels.triton` do that.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .cache import KVCache, rotate_

Attend = Callable[[int, torch.Tensor], torch.Tensor]


def attend_prompts(cache: KVCache, first: int, contexts: list[int]) -> Attend:
    """Read prompts into the rows from `first` on.

    The tokens are the contexts, one after the other, and then the <sop> of each. Context tokens see one another in
    both directions, <sop> sees all of them.

    Args:
        cache: its rows have been begun.
        first: row of the first prompt.
        contexts: length of each context.
    """
    rows = range(first, first + len(contexts))
    angles = [
        torch.cat(
            [table[row, cache.start : cache.start + length] for row, length in zip(rows, contexts, strict=True)]
            + [table[row, cache.start + length, None] for row, length in zip(rows, contexts, strict=True)]
        )[:, None, None]
        for table in (cache.cos, cache.sin)
    ]
    spans = torch.tensor([0, *contexts]).cumsum(0).tolist()

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        qk = rotate_(qkv[:, :2], *angles)
        found = torch.empty_like(qkv[:, 0])
        keys, values = cache.pairs[layer]
        for number, (row, length) in enumerate(zip(rows, contexts, strict=True)):
            for tokens, start, end in (
                (slice(spans[number], spans[number + 1]), cache.start, cache.start + length),
                (slice(spans[-1] + number, spans[-1] + number + 1), cache.start + length, cache.start + length + 1),
            ):
                keys[row, :, start:end] = qk[tokens, 1].transpose(0, 1)
                values[row, :, start:end] = qkv[tokens, 2].transpose(0, 1)
                query = qk[tokens, 0].transpose(0, 1)[None]
                past = keys[row : row + 1, :, :end], values[row : row + 1, :, :end]
                found[tokens] = F.scaled_dot_product_attention(query, *past)[0].transpose(0, 1)
        return found.flatten(1)

    return attend


def attend_tokens(cache: KVCache, count: int, longest: int) -> Attend:
    """Add a token to each of the first `count` rows, of which the longest fills `longest` places then."""
    return _attend_alone(cache, longest - 1) if count == 1 else _attend_side_by_side(cache, count, longest)


def _attend_alone(cache: KVCache, place: int) -> Attend:
    """Let a single row attend, without a mask: in few operations, of which each costs more than its arithmetic."""
    cos, sin = cache.cos[0, place], cache.sin[0, place]
    new = cache.layers[:, :, 0, :, place].unbind()  # of each layer, [2, H, head_dim]
    past = cache.layers[:, :, :1, :, : place + 1].flatten(0, 1).unbind()  # keys and values in turn

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        rotate_(qkv[0, :2], cos, sin)
        new[layer].copy_(qkv[0, 1:])
        query, keys, values = qkv[:, 0, :, None], past[2 * layer], past[2 * layer + 1]
        return F.scaled_dot_product_attention(query, keys, values).view(1, -1)

    return attend


def _attend_side_by_side(cache: KVCache, count: int, longest: int) -> Attend:
    """Let each row attend to its own past."""
    rows = torch.arange(count, device=cache.lengths.device)
    places = cache.lengths[:count].clone()
    cos, sin = (table[rows, places][:, None, None] for table in (cache.cos, cache.sin))
    visible = torch.arange(longest, device=rows.device) <= places[:, None, None, None]

    def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
        query, key = rotate_(qkv[:, :2], cos, sin).unbind(1)
        keys, values = cache.pairs[layer]
        keys[rows, :, places] = key
        values[rows, :, places] = qkv[:, 2]
        past = keys[:count, :, :longest], values[:count, :, :longest]
        return F.scaled_dot_product_attention(query[:, :, None], *past, attn_mask=visible).flatten(1)

    return attend

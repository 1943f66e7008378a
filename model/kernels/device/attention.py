"""Attention over cached keys and values on a GPU, in Triton: rotary angles, the cache's new entries and the softmax.

The functions are those of `generation.attention`. A row's keys are read in parts, by as many programs as its longest
row needs, and a second kernel adds the parts up.
Flash-decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .early import wait_for_inputs
from .launch import start_of

BLOCK = 64  # keys at a time
BLOCK_QUERIES = 64  # tokens of a prompt that one program lets look
PART = 256  # keys of a program
HEADS_AT_ONCE = 8


@triton.jit
def rotated(base, offsets, cos, sin, QUARTER: tl.constexpr, mask):
    """Load numbers at `offsets` behind `base` and turn them; number i turns with number i xor QUARTER."""
    x = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    partner = tl.load(base + (offsets ^ QUARTER), mask=mask, other=0.0).to(tl.float32)
    return x * cos + partner * sin


@triton.jit
def load_places(keys, values, own, places, end, dims, HEAD_DIM: tl.constexpr):
    """Load the keys and values [BLOCK, HEAD_DIM] at `places` before `end`, zeros elsewhere."""
    seen = (places < end)[:, None]
    where = own + places[:, None] * HEAD_DIM + dims[None, :]
    return tl.load(keys + where, mask=seen, other=0.0), tl.load(values + where, mask=seen, other=0.0)


@triton.jit
def attend_part(
    qkv,
    cos,
    sin,
    keys,
    values,
    lengths,
    rows,
    context,
    parts,
    sums,
    qkv_row,
    qkv_part,
    qkv_head,
    angle_row,
    cache_row,
    cache_head,
    room,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Attend with one head of one token to one part of its row's keys.

    Lengths, angles and earlier keys are of earlier steps, or prompts, so they may be read before the query is there.
    """
    token, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + token)
    place = tl.minimum(length, room - 1)  # the new token's
    start = part * PART
    row = token
    if rows is not None:
        row = tl.load(rows + token)
    dims = tl.arange(0, HEAD_DIM)
    own = row.to(tl.int64) * cache_row + head.to(tl.int64) * cache_head
    end = tl.minimum(start + PART, place)
    angle = row * angle_row + tl.maximum(place, 0) * HEAD_DIM + dims
    c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
    k, v = load_places(keys, values, own, start + tl.arange(0, BLOCK), end, dims, HEAD_DIM)
    wait_for_inputs(EARLY)
    if start <= place:
        base = qkv + token * qkv_row + head * qkv_head
        query = rotated(base, dims, c, s, HEAD_DIM // 4, dims >= 0) * scale
        highest = -float("inf")
        total = 0.0
        found = tl.zeros((HEAD_DIM,), tl.float32)
        for block in range(start, end, BLOCK):
            scores = tl.sum(query[None, :] * k.to(tl.float32), 1)
            scores = tl.where(block + tl.arange(0, BLOCK) < end, scores, -float("inf"))
            above = tl.maximum(highest, tl.max(scores, 0))
            shrink = tl.exp(highest - above)
            weights = tl.exp(scores - above)
            found = found * shrink + tl.sum(weights[:, None] * v.to(tl.float32), 0)
            total = total * shrink + tl.sum(weights, 0)
            highest = above
            k, v = load_places(keys, values, own, block + BLOCK + tl.arange(0, BLOCK), end, dims, HEAD_DIM)
        if place < start + PART:  # the new token is in this part
            key = rotated(base + qkv_part, dims, c, s, HEAD_DIM // 4, dims >= 0).to(keys.dtype.element_ty)
            value = tl.load(base + 2 * qkv_part + dims)
            tl.store(keys + own + place * HEAD_DIM + dims, key)
            tl.store(values + own + place * HEAD_DIM + dims, value)
            score = tl.sum(query * key.to(tl.float32), 0)
            above = tl.maximum(highest, score)
            shrink = tl.exp(highest - above)
            weight = tl.exp(score - above)
            found = found * shrink + weight * value.to(tl.float32)
            total = total * shrink + weight
            highest = above
        if PARTS == 1:
            result = (found / total).to(context.dtype.element_ty)
            tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, result)
        else:
            number = (token * HEADS + head) * PARTS + part
            tl.store(parts + number * HEAD_DIM + dims, found)
            tl.store(sums + number * 2, highest)
            tl.store(sums + number * 2 + 1, total)


@triton.jit
def join_parts(
    parts,
    sums,
    lengths,
    context,
    room,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_PADDED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Add up the parts of one head of one token."""
    token, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + token)
    wait_for_inputs(EARLY)
    if length >= 0:
        place = tl.minimum(length, room - 1)
        dims = tl.arange(0, HEAD_DIM)
        numbers = tl.arange(0, PARTS_PADDED)
        there = (numbers < PARTS) & (numbers * PART <= place)
        own = (token * HEADS + head) * PARTS + numbers
        highest = tl.load(sums + own * 2, mask=there, other=-float("inf"))
        total = tl.load(sums + own * 2 + 1, mask=there, other=0.0)
        found = tl.load(parts + own[:, None] * HEAD_DIM + dims[None, :], mask=there[:, None], other=0.0)
        shares = tl.exp(highest - tl.max(highest, 0))
        joined = tl.sum(found * shares[:, None], 0) / tl.sum(total * shares, 0)
        tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, joined.to(context.dtype.element_ty))


@triton.jit
def store_token(
    qkv,
    cos,
    sin,
    keys,
    values,
    queries,
    lengths,
    rows,
    first,
    qkv_row,
    qkv_part,
    qkv_head,
    angle_row,
    cache_row,
    cache_head,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_AT_ONCE: tl.constexpr,
):
    """Turn some heads of the query and key of one token of a prompt, and store its key and value."""
    number, prompt = tl.program_id(0), tl.program_id(1)
    place = first + number
    if place < tl.load(lengths + prompt):
        row = tl.load(rows + prompt)
        heads = tl.program_id(2) * HEADS_AT_ONCE + tl.arange(0, HEADS_AT_ONCE)[:, None]
        dims = tl.arange(0, HEAD_DIM)[None, :]
        there = (heads < HEADS) & (dims >= 0)
        c = tl.load(cos + row * angle_row + place * HEAD_DIM + dims).to(tl.float32)
        s = tl.load(sin + row * angle_row + place * HEAD_DIM + dims).to(tl.float32)
        offsets = heads * qkv_head + dims
        token = prompt.to(tl.int64) * tl.num_programs(0) + number
        base = qkv + token * qkv_row
        query = rotated(base, offsets, c, s, HEAD_DIM // 4, there)
        key = rotated(base + qkv_part, offsets, c, s, HEAD_DIM // 4, there)
        value = tl.load(base + 2 * qkv_part + offsets, mask=there, other=0.0)
        where = row * cache_row + heads.to(tl.int64) * cache_head + place * HEAD_DIM + dims
        tl.store(queries + (token * HEADS + heads) * HEAD_DIM + dims, query.to(queries.dtype.element_ty), mask=there)
        tl.store(keys + where, key.to(keys.dtype.element_ty), mask=there)
        tl.store(values + where, value, mask=there)


@triton.jit
def attend_block(
    queries,
    keys,
    values,
    lengths,
    rows,
    context,
    first,
    cache_row,
    cache_head,
    tokens,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Let a block of tokens of one head of one prompt see its whole context."""
    number, head, prompt = tl.program_id(0) * BLOCK_Q, tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + prompt)
    if first + number < length:
        row = tl.load(rows + prompt)
        dims = tl.arange(0, HEAD_DIM)
        asking = number + tl.arange(0, BLOCK_Q)
        own = ((prompt.to(tl.int64) * tokens + asking)[:, None] * HEADS + head) * HEAD_DIM + dims[None, :]
        within = (first + asking < length)[:, None]
        query = tl.load(queries + own, mask=within, other=0.0)
        base = row * cache_row + head.to(tl.int64) * cache_head
        highest = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
        total = tl.zeros((BLOCK_Q,), tl.float32)
        found = tl.zeros((BLOCK_Q, HEAD_DIM), tl.float32)
        for start in range(0, length, BLOCK):
            places = start + tl.arange(0, BLOCK)
            seen = places < length
            where = base + places[:, None] * HEAD_DIM + dims[None, :]
            key = tl.load(keys + where, mask=seen[:, None], other=0.0)
            value = tl.load(values + where, mask=seen[:, None], other=0.0)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
            scores = tl.where(seen[None, :], scores, -float("inf"))
            above = tl.maximum(highest, tl.max(scores, 1))
            shrink = tl.exp(highest - above)
            weights = tl.exp(scores - above[:, None])
            total = total * shrink + tl.sum(weights, 1)
            found = tl.dot(weights.to(value.dtype), value, found * shrink[:, None], input_precision="ieee")
            highest = above
        tl.store(context + own, (found / total[:, None]).to(context.dtype.element_ty), mask=within)


def attend_tokens(
    qkv: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    pair: tuple[torch.Tensor, torch.Tensor],
    lengths: torch.Tensor,
    longest: int,
    rows: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add one token to each row and return its context [B, H x head_dim].

    Args:
        qkv: [B, 3, H, head_dim], in any order of strides but the last; not yet turned.
        angles: cos and sin [R, room, head_dim], see `generation.cache.rotate`.
        pair: keys and values [R, H, room, head_dim], which get those of the token at the place that `lengths` says.
        lengths: int64 [B], tokens before each; where it is negative, nothing is stored, nor computed of use.
        longest: no row has more tokens, this one included.
        rows: int64 [B], the row of each token; None for the first B.
        out: [B, H x head_dim], to be filled and returned.
    """
    count, _, heads, head_dim = qkv.shape
    keys, values = pair
    parts = triton.cdiv(longest, PART)
    context = torch.empty(count, heads * head_dim, dtype=qkv.dtype, device=qkv.device) if out is None else out
    found, sums = context, context
    if parts > 1:
        found = torch.empty(count, heads, parts, head_dim, dtype=torch.float32, device=qkv.device)
        sums = torch.empty(count, heads, parts, 2, dtype=torch.float32, device=qkv.device)
    sizes: dict[str, Any] = {"HEADS": heads, "HEAD_DIM": head_dim, "PART": PART, "PARTS": parts}
    attend_part[(count, heads, parts)](
        qkv,
        *angles,
        keys,
        values,
        lengths,
        rows,
        context,
        found,
        sums,
        *qkv.stride()[:3],
        angles[0].stride(0),
        keys.stride(0),
        keys.stride(1),
        keys.shape[2],
        head_dim**-0.5,
        **sizes,
        **start_of(qkv.device),
        BLOCK=BLOCK,
        num_warps=4,
    )
    if parts > 1:
        padded = triton.next_power_of_2(parts)
        join_parts[(count, heads)](
            found,
            sums,
            lengths,
            context,
            keys.shape[2],
            **sizes,
            **start_of(qkv.device),
            PARTS_PADDED=padded,
            num_warps=2,
        )
    return context


def attend_contexts(
    qkv: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    pair: tuple[torch.Tensor, torch.Tensor],
    lengths: torch.Tensor,
    rows: torch.Tensor,
    first: int,
    out: torch.Tensor,
) -> None:
    """Let the tokens of each prompt see one another, and store their keys and values in the prompt's row.

    Args:
        qkv: [n x T, 3, H, head_dim], T places for each of n prompts.
        lengths: int64 [n], places that each row has filled then; nothing is stored of tokens beyond.
        rows: int64 [n], the row of each prompt.
        first: place of a prompt's first token; it sees the keys before it too, and so do the others.
        out: [n x T, H x head_dim], to be filled where a place is in use.

    The others are as of `attend_tokens`.
    """
    count, _, heads, head_dim = qkv.shape
    tokens = count // len(rows)
    keys, values = pair
    queries = torch.empty(count, heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    at_once = min(HEADS_AT_ONCE, triton.next_power_of_2(heads))
    store_token[(tokens, len(rows), triton.cdiv(heads, at_once))](
        qkv,
        *angles,
        keys,
        values,
        queries,
        lengths,
        rows,
        first,
        *qkv.stride()[:3],
        angles[0].stride(0),
        keys.stride(0),
        keys.stride(1),
        HEADS=heads,
        HEAD_DIM=head_dim,
        HEADS_AT_ONCE=at_once,
        num_warps=4,
    )
    attend_block[(triton.cdiv(tokens, BLOCK_QUERIES), heads, len(rows))](
        queries,
        keys,
        values,
        lengths,
        rows,
        out,
        first,
        keys.stride(0),
        keys.stride(1),
        tokens,
        head_dim**-0.5,
        HEADS=heads,
        HEAD_DIM=head_dim,
        BLOCK_Q=BLOCK_QUERIES,
        BLOCK=BLOCK,
        num_warps=4,
        num_stages=2,
    )

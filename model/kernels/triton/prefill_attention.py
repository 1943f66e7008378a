"""Compute the attention of prompts' tokens to one another in Triton, and write their keys and values to the cache."""

import torch
import triton
import triton.language as tl


@triton.jit
def load_rotated(base, offsets, cos, sin, QUARTER: tl.constexpr, mask):
    """Load numbers at `offsets` behind `base` and turn them; number i turns with number i xor QUARTER."""
    x = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    partner = tl.load(base + (offsets ^ QUARTER), mask=mask, other=0.0).to(tl.float32)
    return x * cos + partner * sin


BLOCK = 64  # keys at a time
BLOCK_Q_SIZE = 64  # tokens of a prompt that one program lets look
HEADS_PER_PROGRAM = 8


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
    HEADS_PER_PROGRAM: tl.constexpr,
):
    """Turn some heads of the query and key of one token of a prompt, and store its key and value."""
    number, prompt = tl.program_id(0), tl.program_id(1)
    place = first + number
    if place < tl.load(lengths + prompt):
        row = tl.load(rows + prompt)
        heads = tl.program_id(2) * HEADS_PER_PROGRAM + tl.arange(0, HEADS_PER_PROGRAM)[:, None]
        dims = tl.arange(0, HEAD_DIM)[None, :]
        there = (heads < HEADS) & (dims >= 0)
        c = tl.load(cos + row * angle_row + place * HEAD_DIM + dims).to(tl.float32)
        s = tl.load(sin + row * angle_row + place * HEAD_DIM + dims).to(tl.float32)
        offsets = heads * qkv_head + dims
        token = prompt.to(tl.int64) * tl.num_programs(0) + number
        base = qkv + token * qkv_row
        query = load_rotated(base, offsets, c, s, HEAD_DIM // 4, there)
        key = load_rotated(base + qkv_part, offsets, c, s, HEAD_DIM // 4, there)
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


def attend_prefill(
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

    The others are as of `token_attention.attend_tokens`.
    """
    count, _, heads, head_dim = qkv.shape
    tokens = count // len(rows)
    keys, values = pair
    queries = torch.empty(count, heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    at_once = min(HEADS_PER_PROGRAM, triton.next_power_of_2(heads))
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
        HEADS_PER_PROGRAM=at_once,
        num_warps=4,
    )
    attend_block[(triton.cdiv(tokens, BLOCK_Q_SIZE), heads, len(rows))](
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
        BLOCK_Q=BLOCK_Q_SIZE,
        BLOCK=BLOCK,
        num_warps=4,
        num_stages=2,
    )

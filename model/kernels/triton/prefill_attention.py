"""Prefill attention in Triton: context tokens attend to one another; their keys and values are cached."""

import torch
import triton
import triton.language as tl

from ..dispatch import pdl_args
from .tiles import wait_before_dependents, wait_for_inputs


@triton.jit
def load_rotated(base, offsets, cos, sin, QUARTER: tl.constexpr, mask):
    """Load numbers at `offsets` from `base` and apply RoPE, which pairs number i with number i xor QUARTER."""
    x = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    partner = tl.load(base + (offsets ^ QUARTER), mask=mask, other=0.0).to(tl.float32)
    return x * cos + partner * sin


@triton.jit
def locate_row(table, slot, row, like, HEAD_DIM: tl.constexpr):
    """Return a pointer, of the type of `like`, to a row of a slot's keys and values, and the row's positions."""
    address, positions = tl.load(table + 2 * slot), tl.load(table + 2 * slot + 1)
    base = tl.multiple_of(address.to(like.dtype), 16)
    return base + row * positions * HEAD_DIM, positions


BLOCK_KEYS = 64  # keys per iteration
BLOCK_QUERIES = 64  # queries per program
HEADS_PER_PROGRAM = 8


@triton.jit
def store_token(
    qkv,
    cos,
    sin,
    table,
    first_row,
    queries,
    lengths,
    slots,
    first,
    qkv_stride_token,
    qkv_stride_part,
    qkv_stride_head,
    cos_stride_slot,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS_PER_PROGRAM: tl.constexpr,
    PDL: tl.constexpr,
):
    """Apply RoPE to some heads of one token's query and key; store the query, and cache the key and value."""
    wait_for_inputs(PDL)
    index, prompt = tl.program_id(0), tl.program_id(1)
    position = first + index
    if position < tl.load(lengths + prompt):
        slot = tl.load(slots + prompt)
        heads = tl.program_id(2) * HEADS_PER_PROGRAM + tl.arange(0, HEADS_PER_PROGRAM)[:, None]
        dims = tl.arange(0, HEAD_DIM)[None, :]
        mask = (heads < HEADS) & (dims >= 0)
        c = tl.load(cos + slot * cos_stride_slot + position * HEAD_DIM + dims).to(tl.float32)
        s = tl.load(sin + slot * cos_stride_slot + position * HEAD_DIM + dims).to(tl.float32)
        offsets = heads * qkv_stride_head + dims
        token = prompt.to(tl.int64) * tl.num_programs(0) + index
        base = qkv + token * qkv_stride_token
        query = load_rotated(base, offsets, c, s, HEAD_DIM // 4, mask)
        key = load_rotated(base + qkv_stride_part, offsets, c, s, HEAD_DIM // 4, mask)
        value = tl.load(base + 2 * qkv_stride_part + offsets, mask=mask, other=0.0)
        keys, positions = locate_row(table, slot, first_row, queries, HEAD_DIM)
        cached = heads * positions * HEAD_DIM + position * HEAD_DIM + dims
        tl.store(queries + (token * HEADS + heads) * HEAD_DIM + dims, query.to(queries.dtype.element_ty), mask=mask)
        tl.store(keys + cached, key.to(keys.dtype.element_ty), mask=mask)
        tl.store(keys + HEADS * positions * HEAD_DIM + cached, value, mask=mask)


@triton.jit
def attend_block(
    queries,
    table,
    first_row,
    lengths,
    slots,
    context,
    first,
    tokens,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """Compute the attention of a block of queries of one head of one prompt to its complete context.

    FlashAttention: https://arxiv.org/abs/2205.14135. m_i is the running maximum of the scores, l_i the running sum of
    their exponentials, acc the unnormalized output.
    """
    wait_before_dependents(PDL)  # decode attention loads the keys of `store_token` before it waits
    first_query, head, prompt = tl.program_id(0) * BLOCK_Q, tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + prompt)
    if first + first_query < length:
        slot = tl.load(slots + prompt)
        dims = tl.arange(0, HEAD_DIM)
        query_index = first_query + tl.arange(0, BLOCK_Q)
        offsets = ((prompt.to(tl.int64) * tokens + query_index)[:, None] * HEADS + head) * HEAD_DIM + dims[None, :]
        query_mask = (first + query_index < length)[:, None]
        q = tl.load(queries + offsets, mask=query_mask, other=0.0)
        keys, num_positions = locate_row(table, slot, first_row + head, queries, HEAD_DIM)
        values = keys + HEADS * num_positions * HEAD_DIM
        m_i = tl.full((BLOCK_Q,), -float("inf"), tl.float32)
        l_i = tl.zeros((BLOCK_Q,), tl.float32)
        acc = tl.zeros((BLOCK_Q, HEAD_DIM), tl.float32)
        for start in range(0, length, BLOCK_K):
            positions = start + tl.arange(0, BLOCK_K)
            key_mask = positions < length
            cached = positions[:, None] * HEAD_DIM + dims[None, :]
            k = tl.load(keys + cached, mask=key_mask[:, None], other=0.0)
            v = tl.load(values + cached, mask=key_mask[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(key_mask[None, :], scores, -float("inf"))
            m_new = tl.maximum(m_i, tl.max(scores, 1))
            alpha = tl.exp(m_i - m_new)
            p = tl.exp(scores - m_new[:, None])
            l_i = l_i * alpha + tl.sum(p, 1)
            acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
            m_i = m_new
        tl.store(context + offsets, (acc / l_i[:, None]).to(context.dtype.element_ty), mask=query_mask)


def attend_prefill(
    qkv: torch.Tensor,
    cos_sin: tuple[torch.Tensor, torch.Tensor],
    layer: tuple[torch.Tensor, int],
    lengths: torch.Tensor,
    slots: torch.Tensor,
    first: int,
    out: torch.Tensor,
) -> None:
    """Compute the bidirectional attention of n padded contexts, and store their keys and values in the cache.

    Args:
        qkv: [n x T, 3, H, head_dim], T tokens for each of n prompts, before RoPE.
        cos_sin: see `decode_attention.attend_decode`.
        layer: see `decode_attention.attend_decode`.
        lengths: int64 [n], filled positions of each slot after its context, without <sop>; -1 for a padding prompt.
        slots: int64 [n], slot of each prompt.
        first: position of each prompt's first token; its tokens also attend to the keys before it.
        out: [n x T, H x head_dim], filled for the tokens that are not padding.
    """
    count, _, num_heads, head_dim = qkv.shape
    tokens = count // len(slots)
    queries = torch.empty(count, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    pdl = pdl_args(qkv.device)
    heads_per_program = min(HEADS_PER_PROGRAM, triton.next_power_of_2(num_heads))
    store_token[(tokens, len(slots), triton.cdiv(num_heads, heads_per_program))](
        qkv,
        *cos_sin,
        *layer,
        queries,
        lengths,
        slots,
        first,
        *qkv.stride()[:3],
        cos_sin[0].stride(0),
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        HEADS_PER_PROGRAM=heads_per_program,
        **pdl,
        num_warps=4,
    )
    attend_block[(triton.cdiv(tokens, BLOCK_QUERIES), num_heads, len(slots))](
        queries,
        *layer,
        lengths,
        slots,
        out,
        first,
        tokens,
        head_dim**-0.5,
        HEADS=num_heads,
        HEAD_DIM=head_dim,
        BLOCK_Q=BLOCK_QUERIES,
        BLOCK_K=BLOCK_KEYS,
        **pdl,
        num_warps=4,
        num_stages=2,
    )

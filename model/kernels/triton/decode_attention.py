"""Decode attention in Triton: one new token of each sequence attends to its cached keys and values.

The keys of a sequence are split among several programs, as many as the longest sequence needs; a second kernel merges
the splits. Flash-decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from ..dispatch import pdl_args
from .prefill_attention import load_rotated
from .tiles import wait_for_inputs

BLOCK_KEYS = 64  # keys per iteration
SPLIT_LENGTH = 256  # keys per program


@triton.jit
def load_keys_values(keys, values, base, positions, end, dims, HEAD_DIM: tl.constexpr):
    """Load the keys and values [BLOCK_K, HEAD_DIM] at `positions` before `end`, zeros elsewhere."""
    mask = (positions < end)[:, None]
    offsets = base + positions[:, None] * HEAD_DIM + dims[None, :]
    return tl.load(keys + offsets, mask=mask, other=0.0), tl.load(values + offsets, mask=mask, other=0.0)


@triton.jit
def attend_split(
    qkv,
    cos,
    sin,
    keys,
    values,
    lengths,
    slots,
    context,
    partials,
    softmax_stats,
    qkv_stride_token,
    qkv_stride_part,
    qkv_stride_head,
    cos_stride_slot,
    cache_stride_slot,
    cache_stride_head,
    capacity,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_LENGTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Compute the attention of one head of one token to one split of its sequence's keys.

    Lengths, rotary tables and cached keys were written by earlier steps or prefills, so they are loaded before the
    query is ready. m_i, l_i and acc are those of `prefill_attention.attend_block`.
    """
    token, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + token)
    position = tl.minimum(length, capacity - 1)  # of the new token
    start = split * SPLIT_LENGTH
    slot = token
    if slots is not None:
        slot = tl.load(slots + token)
    dims = tl.arange(0, HEAD_DIM)
    cached = slot.to(tl.int64) * cache_stride_slot + head.to(tl.int64) * cache_stride_head
    end = tl.minimum(start + SPLIT_LENGTH, position)
    rotary_offsets = slot * cos_stride_slot + tl.maximum(position, 0) * HEAD_DIM + dims
    c, s = tl.load(cos + rotary_offsets).to(tl.float32), tl.load(sin + rotary_offsets).to(tl.float32)
    k, v = load_keys_values(keys, values, cached, start + tl.arange(0, BLOCK_K), end, dims, HEAD_DIM)
    wait_for_inputs(PDL)
    if start <= position:
        base = qkv + token * qkv_stride_token + head * qkv_stride_head
        q = load_rotated(base, dims, c, s, HEAD_DIM // 4, dims >= 0) * scale
        m_i = -float("inf")
        l_i = 0.0
        acc = tl.zeros((HEAD_DIM,), tl.float32)
        for block in range(start, end, BLOCK_K):
            scores = tl.sum(q[None, :] * k.to(tl.float32), 1)
            scores = tl.where(block + tl.arange(0, BLOCK_K) < end, scores, -float("inf"))
            m_new = tl.maximum(m_i, tl.max(scores, 0))
            alpha = tl.exp(m_i - m_new)
            p = tl.exp(scores - m_new)
            acc = acc * alpha + tl.sum(p[:, None] * v.to(tl.float32), 0)
            l_i = l_i * alpha + tl.sum(p, 0)
            m_i = m_new
            next_positions = block + BLOCK_K + tl.arange(0, BLOCK_K)
            k, v = load_keys_values(keys, values, cached, next_positions, end, dims, HEAD_DIM)
        if position < start + SPLIT_LENGTH:  # the new token belongs to this split
            new_k = load_rotated(base + qkv_stride_part, dims, c, s, HEAD_DIM // 4, dims >= 0).to(keys.dtype.element_ty)
            new_v = tl.load(base + 2 * qkv_stride_part + dims)
            tl.store(keys + cached + position * HEAD_DIM + dims, new_k)
            tl.store(values + cached + position * HEAD_DIM + dims, new_v)
            score = tl.sum(q * new_k.to(tl.float32), 0)
            m_new = tl.maximum(m_i, score)
            alpha = tl.exp(m_i - m_new)
            p_new = tl.exp(score - m_new)
            acc = acc * alpha + p_new * new_v.to(tl.float32)
            l_i = l_i * alpha + p_new
            m_i = m_new
        if NUM_SPLITS == 1:
            result = (acc / l_i).to(context.dtype.element_ty)
            tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, result)
        else:
            index = (token * HEADS + head) * NUM_SPLITS + split
            tl.store(partials + index * HEAD_DIM + dims, acc)
            tl.store(softmax_stats + index * 2, m_i)
            tl.store(softmax_stats + index * 2 + 1, l_i)


@triton.jit
def merge_splits(
    partials,
    softmax_stats,
    lengths,
    context,
    capacity,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLIT_LENGTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    NUM_SPLITS_PADDED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Merge the splits of one head of one token."""
    token, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + token)
    wait_for_inputs(PDL)
    if length >= 0:
        position = tl.minimum(length, capacity - 1)
        dims = tl.arange(0, HEAD_DIM)
        splits = tl.arange(0, NUM_SPLITS_PADDED)
        mask = (splits < NUM_SPLITS) & (splits * SPLIT_LENGTH <= position)
        index = (token * HEADS + head) * NUM_SPLITS + splits
        m_i = tl.load(softmax_stats + index * 2, mask=mask, other=-float("inf"))
        l_i = tl.load(softmax_stats + index * 2 + 1, mask=mask, other=0.0)
        acc = tl.load(partials + index[:, None] * HEAD_DIM + dims[None, :], mask=mask[:, None], other=0.0)
        alpha = tl.exp(m_i - tl.max(m_i, 0))
        result = tl.sum(acc * alpha[:, None], 0) / tl.sum(l_i * alpha, 0)
        tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, result.to(context.dtype.element_ty))


def attend_decode(
    qkv: torch.Tensor,
    cos_sin: tuple[torch.Tensor, torch.Tensor],
    key_values: tuple[torch.Tensor, torch.Tensor],
    lengths: torch.Tensor,
    longest: int,
    slots: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Append one token to each sequence and return its attention context [B, H x head_dim].

    Args:
        qkv: [B, 3, H, head_dim] before RoPE; the last dimension is contiguous, the other strides are arbitrary.
        cos_sin: cosines and sines [slots, capacity, head_dim], see `torch_ops.apply_rotary`.
        key_values: keys and values [slots, H, capacity, head_dim]; the new ones are stored at position `lengths`.
        lengths: int64 [B], filled positions before the new token, the prefix included; negative for a free slot, whose
            output is undefined.
        longest: upper bound of the lengths, the new token included.
        slots: int64 [B], slot of each token; None for the first B.
        out: [B, H x head_dim], to be filled and returned.
    """
    count, _, num_heads, head_dim = qkv.shape
    keys, values = key_values
    num_splits = triton.cdiv(longest, SPLIT_LENGTH)
    context = torch.empty(count, num_heads * head_dim, dtype=qkv.dtype, device=qkv.device) if out is None else out
    partials, softmax_stats = context, context  # not written with a single split
    if num_splits > 1:
        partials = torch.empty(count, num_heads, num_splits, head_dim, dtype=torch.float32, device=qkv.device)
        softmax_stats = torch.empty(count, num_heads, num_splits, 2, dtype=torch.float32, device=qkv.device)
    sizes: dict[str, Any] = {
        "HEADS": num_heads,
        "HEAD_DIM": head_dim,
        "SPLIT_LENGTH": SPLIT_LENGTH,
        "NUM_SPLITS": num_splits,
    }
    attend_split[(count, num_heads, num_splits)](
        qkv,
        *cos_sin,
        keys,
        values,
        lengths,
        slots,
        context,
        partials,
        softmax_stats,
        *qkv.stride()[:3],
        cos_sin[0].stride(0),
        keys.stride(0),
        keys.stride(1),
        keys.shape[2],
        head_dim**-0.5,
        **sizes,
        **pdl_args(qkv.device),
        BLOCK_K=BLOCK_KEYS,
        num_warps=4,
    )
    if num_splits > 1:
        merge_splits[(count, num_heads)](
            partials,
            softmax_stats,
            lengths,
            context,
            keys.shape[2],
            **sizes,
            **pdl_args(qkv.device),
            NUM_SPLITS_PADDED=triton.next_power_of_2(num_splits),
            num_warps=2,
        )
    return context

"""Decode attention in Triton: one new token of each sequence attends to its cached keys and values.

If there are few sequences, the keys of each are split among several programs, and a second kernel merges the splits.
Flash-decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ..dispatch import pdl_args
from .prefill_attention import load_rotated, locate_row
from .tiles import wait_for_inputs

SPLIT_LENGTH = 256  # minimum keys per program
# Programs that keep a GPU's memory busy: more splits than that would only have to be merged.
TARGET_PROGRAMS = 1024
# Finite, so that the difference of two such scores is 0 and not NaN.
MASKED_SCORE = tl.constexpr(-1e30)


class AttentionConfig(NamedTuple):
    """Keys per iteration, and warps of a program."""

    block_k: int
    num_warps: int


# Up to this many programs, two for each multiprocessor of an H200, have a larger tile: it hides more memory latency.
MAX_SPARSE_PROGRAMS, SPARSE_CONFIG = 264, AttentionConfig(64, 4)
# Up to this many heads of all sequences together, which are 16 sequences of the published size.
MAX_FEW_HEADS, FEW_CONFIG = 512, AttentionConfig(32, 2)
# From this many heads on, if the sequences are short: no longer than this many keys.
MIN_MANY_HEADS, MAX_SHORT_KEYS, SHORT_CONFIG = 1025, 256, AttentionConfig(8, 1)
DENSE_CONFIG = AttentionConfig(16, 2)


@triton.jit
def load_keys_values(keys, values, positions, end, dims, HEAD_DIM: tl.constexpr):
    """Load the keys and values [BLOCK_K, HEAD_DIM] at `positions` before `end`, zeros elsewhere."""
    mask = (positions < end)[:, None]
    offsets = positions[:, None] * HEAD_DIM + dims[None, :]
    return tl.load(keys + offsets, mask=mask, other=0.0), tl.load(values + offsets, mask=mask, other=0.0)


@triton.jit
def attend_rows(q, k, v, mask, m_i, l_i, acc):
    """Add a tile of keys and values, those where `mask` is True, to the softmax of each row; return m_i, l_i, acc."""
    scores = tl.where(mask, tl.sum(q[None, :] * k.to(tl.float32), 1), MASKED_SCORE)
    m_new = tl.maximum(m_i, scores)
    alpha = tl.exp(m_i - m_new)
    p = tl.where(mask, tl.exp(scores - m_new), 0.0)
    return m_new, l_i * alpha + p, acc * alpha[:, None] + p[:, None] * v.to(tl.float32)


@triton.jit
def attend_split(
    qkv,
    cos,
    sin,
    table,
    first_row,
    lengths,
    slots,
    context,
    partials,
    softmax_stats,
    qkv_stride_token,
    qkv_stride_part,
    qkv_stride_head,
    cos_stride_slot,
    scale,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_LENGTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Compute the attention of one head of one token to one split of its sequence's keys.

    Each of the BLOCK_K rows of a tile keeps an online softmax of its own (m_i, l_i and acc as in
    `prefill_attention.attend_block`), so that threads exchange data only once, at the end. Lengths, rotary tables
    and cached keys were written by earlier steps or prefills, so the first ones are loaded before the query is ready.
    In the prefill of the same prompt, `attend_block` launches this kernel only after its keys are stored.
    """
    token, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = token
    if slots is not None:
        slot = tl.load(slots + token)
    keys, capacity = locate_row(table, slot, first_row + head, context, HEAD_DIM)
    values = keys + HEADS * capacity * HEAD_DIM
    position = tl.minimum(tl.load(lengths + token), capacity - 1).to(tl.int32)  # of the new token
    start = split * SPLIT_LENGTH
    dims = tl.arange(0, HEAD_DIM)
    end = tl.minimum(start + SPLIT_LENGTH, position)
    rotary_offsets = slot * cos_stride_slot + tl.maximum(position, 0) * HEAD_DIM + dims
    c, s = tl.load(cos + rotary_offsets).to(tl.float32), tl.load(sin + rotary_offsets).to(tl.float32)
    k, v = load_keys_values(keys, values, start + tl.arange(0, BLOCK_K), end, dims, HEAD_DIM)
    wait_for_inputs(PDL)
    if start <= position:
        base = qkv + token * qkv_stride_token + head * qkv_stride_head
        q = load_rotated(base, dims, c, s, HEAD_DIM // 4, dims >= 0) * scale
        m_i = tl.full((BLOCK_K,), MASKED_SCORE, tl.float32)
        l_i = tl.zeros((BLOCK_K,), tl.float32)
        acc = tl.zeros((BLOCK_K, HEAD_DIM), tl.float32)
        for block in range(start, end, BLOCK_K):
            m_i, l_i, acc = attend_rows(q, k, v, block + tl.arange(0, BLOCK_K) < end, m_i, l_i, acc)
            next_positions = block + BLOCK_K + tl.arange(0, BLOCK_K)
            k, v = load_keys_values(keys, values, next_positions, end, dims, HEAD_DIM)
        holds_new = position + dims * 0 < start + SPLIT_LENGTH  # whether the new token belongs to this split
        new_k = load_rotated(base + qkv_stride_part, dims, c, s, HEAD_DIM // 4, holds_new).to(keys.dtype.element_ty)
        new_v = tl.load(base + 2 * qkv_stride_part + dims, mask=holds_new, other=0.0)
        tl.store(keys + position * HEAD_DIM + dims, new_k, mask=holds_new)
        tl.store(values + position * HEAD_DIM + dims, new_v, mask=holds_new)
        new_score = tl.sum(q * new_k.to(tl.float32), 0)
        new_score = tl.where(position < start + SPLIT_LENGTH, new_score, MASKED_SCORE)
        m_all = tl.maximum(tl.max(m_i, 0), new_score)
        alpha = tl.exp(m_i - m_all)
        p_new = tl.where(position < start + SPLIT_LENGTH, tl.exp(new_score - m_all), 0.0)
        result = tl.sum(acc * alpha[:, None], 0) + p_new * new_v.to(tl.float32)
        l_all = tl.sum(l_i * alpha, 0) + p_new
        if NUM_SPLITS == 1:
            tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, (result / l_all).to(context.dtype.element_ty))
        else:
            index = (token * HEADS + head) * NUM_SPLITS + split
            tl.store(partials + index * HEAD_DIM + dims, result)
            tl.store(softmax_stats + index * 2, m_all)
            tl.store(softmax_stats + index * 2 + 1, l_all)


@triton.jit
def merge_splits(
    partials,
    softmax_stats,
    table,
    lengths,
    slots,
    context,
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
    slot = token
    if slots is not None:
        slot = tl.load(slots + token)
    position = tl.minimum(length, tl.load(table + 2 * slot + 1) - 1)
    wait_for_inputs(PDL)
    if length >= 0:
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


def choose_split_length(heads: int, longest: int, dtype: torch.dtype) -> int:
    """Return the keys per program for this many heads of all sequences together, SPLIT_LENGTH or more.

    In float32 it is always SPLIT_LENGTH, so that the result of a sequence does not depend on the others.
    """
    if dtype == torch.float32:
        return SPLIT_LENGTH
    length = SPLIT_LENGTH
    while heads * -(-longest // length) > TARGET_PROGRAMS and length < longest:
        length *= 2
    return length


def choose_config(heads: int, longest: int, num_splits: int, dtype: torch.dtype) -> AttentionConfig:
    """Return the configuration for this many heads of all sequences together, each in `num_splits` programs.

    In float32 it is always the same, so that the result of a sequence does not depend on the others.
    """
    if dtype == torch.float32:
        return DENSE_CONFIG
    if heads * num_splits <= MAX_SPARSE_PROGRAMS:
        return SPARSE_CONFIG
    if heads <= MAX_FEW_HEADS:
        return FEW_CONFIG
    return SHORT_CONFIG if heads >= MIN_MANY_HEADS and longest <= MAX_SHORT_KEYS else DENSE_CONFIG


def attend_decode(
    qkv: torch.Tensor,
    cos_sin: tuple[torch.Tensor, torch.Tensor],
    layer: tuple[torch.Tensor, int],
    lengths: torch.Tensor,
    longest: int,
    slots: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Append one token to each sequence and return its attention context [B, H x head_dim].

    Args:
        qkv: [B, 3, H, head_dim] before RoPE; the last dimension is contiguous, the other strides are arbitrary.
        cos_sin: cosines and sines [slots, capacity, head_dim], see `torch_ops.apply_rotary`.
        layer: int64 [slots, 2], address of each slot's keys and values [rows, positions, head_dim] in the dtype of
            qkv, and their number of positions; and the row of the layer's first head. Its H rows of keys come first,
            then H rows of values. The new ones are stored at position `lengths`.
        lengths: int64 [B], filled positions before the new token, the prefix included; negative for a free slot, whose
            output is undefined.
        longest: upper bound of the lengths, the new token included.
        slots: int64 [B], slot of each token; None for the first B.
        out: [B, H x head_dim], to be filled and returned.
    """
    count, _, num_heads, head_dim = qkv.shape
    split_length = choose_split_length(count * num_heads, longest, qkv.dtype)
    num_splits = triton.cdiv(longest, split_length)
    config = choose_config(count * num_heads, longest, num_splits, qkv.dtype)
    context = torch.empty(count, num_heads * head_dim, dtype=qkv.dtype, device=qkv.device) if out is None else out
    partials, softmax_stats = context, context  # not written with a single split
    if num_splits > 1:
        partials = torch.empty(count, num_heads, num_splits, head_dim, dtype=torch.float32, device=qkv.device)
        softmax_stats = torch.empty(count, num_heads, num_splits, 2, dtype=torch.float32, device=qkv.device)
    sizes: dict[str, Any] = {
        "HEADS": num_heads,
        "HEAD_DIM": head_dim,
        "SPLIT_LENGTH": split_length,
        "NUM_SPLITS": num_splits,
    }
    attend_split[(count, num_heads, num_splits)](
        qkv,
        *cos_sin,
        *layer,
        lengths,
        slots,
        context,
        partials,
        softmax_stats,
        *qkv.stride()[:3],
        cos_sin[0].stride(0),
        head_dim**-0.5,
        **sizes,
        **pdl_args(qkv.device),
        BLOCK_K=config.block_k,
        num_warps=config.num_warps,
    )
    if num_splits > 1:
        merge_splits[(count, num_heads)](
            partials,
            softmax_stats,
            layer[0],
            lengths,
            slots,
            context,
            **sizes,
            **pdl_args(qkv.device),
            NUM_SPLITS_PADDED=triton.next_power_of_2(num_splits),
            num_warps=2,
        )
    return context

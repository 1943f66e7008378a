"""Attention of one new token of each row to its cached keys and values on a GPU, in Triton.

A row's keys are read in parts, by as many programs as its longest row needs, and a second kernel adds the parts up.
Flash-decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .launch import pdl_args
from .prefill_attention import load_rotated
from .tiles import wait_for_inputs

BLOCK = 64  # keys at a time
SPLIT_LENGTH = 256  # keys of a program


@triton.jit
def load_keys_values(keys, values, own, places, end, dims, HEAD_DIM: tl.constexpr):
    """Load the keys and values [BLOCK, HEAD_DIM] at `places` before `end`, zeros elsewhere."""
    seen = (places < end)[:, None]
    where = own + places[:, None] * HEAD_DIM + dims[None, :]
    return tl.load(keys + where, mask=seen, other=0.0), tl.load(values + where, mask=seen, other=0.0)


@triton.jit
def attend_split(
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
    SPLIT_LENGTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Attend with one head of one token to one part of its row's keys.

    Lengths, angles and earlier keys are of earlier steps, or prompts, so they may be read before the query is there.
    """
    token, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + token)
    place = tl.minimum(length, room - 1)  # the new token's
    start = part * SPLIT_LENGTH
    row = token
    if rows is not None:
        row = tl.load(rows + token)
    dims = tl.arange(0, HEAD_DIM)
    own = row.to(tl.int64) * cache_row + head.to(tl.int64) * cache_head
    end = tl.minimum(start + SPLIT_LENGTH, place)
    angle = row * angle_row + tl.maximum(place, 0) * HEAD_DIM + dims
    c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
    k, v = load_keys_values(keys, values, own, start + tl.arange(0, BLOCK), end, dims, HEAD_DIM)
    wait_for_inputs(PDL)
    if start <= place:
        base = qkv + token * qkv_row + head * qkv_head
        query = load_rotated(base, dims, c, s, HEAD_DIM // 4, dims >= 0) * scale
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
            k, v = load_keys_values(keys, values, own, block + BLOCK + tl.arange(0, BLOCK), end, dims, HEAD_DIM)
        if place < start + SPLIT_LENGTH:  # the new token is in this part
            key = load_rotated(base + qkv_part, dims, c, s, HEAD_DIM // 4, dims >= 0).to(keys.dtype.element_ty)
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
        if NUM_SPLITS == 1:
            result = (found / total).to(context.dtype.element_ty)
            tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, result)
        else:
            number = (token * HEADS + head) * NUM_SPLITS + part
            tl.store(parts + number * HEAD_DIM + dims, found)
            tl.store(sums + number * 2, highest)
            tl.store(sums + number * 2 + 1, total)


@triton.jit
def merge_splits(
    parts,
    sums,
    lengths,
    context,
    room,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLIT_LENGTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    NUM_SPLITS_PADDED: tl.constexpr,
    PDL: tl.constexpr,
):
    """Add up the parts of one head of one token."""
    token, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + token)
    wait_for_inputs(PDL)
    if length >= 0:
        place = tl.minimum(length, room - 1)
        dims = tl.arange(0, HEAD_DIM)
        numbers = tl.arange(0, NUM_SPLITS_PADDED)
        there = (numbers < NUM_SPLITS) & (numbers * SPLIT_LENGTH <= place)
        own = (token * HEADS + head) * NUM_SPLITS + numbers
        highest = tl.load(sums + own * 2, mask=there, other=-float("inf"))
        total = tl.load(sums + own * 2 + 1, mask=there, other=0.0)
        found = tl.load(parts + own[:, None] * HEAD_DIM + dims[None, :], mask=there[:, None], other=0.0)
        masked_softmax = tl.exp(highest - tl.max(highest, 0))
        joined = tl.sum(found * masked_softmax[:, None], 0) / tl.sum(total * masked_softmax, 0)
        tl.store(context + (token * HEADS + head) * HEAD_DIM + dims, joined.to(context.dtype.element_ty))


def attend_decode(
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
        angles: cos and sin [R, room, head_dim], see `torch_ops.rotate`.
        pair: keys and values [R, H, room, head_dim], which get those of the token at the place that `lengths` says.
        lengths: int64 [B], tokens before each; where it is negative, nothing is stored, nor computed of use.
        longest: no row has more tokens, this one included.
        rows: int64 [B], the row of each token; None for the first B.
        out: [B, H x head_dim], to be filled and returned.
    """
    count, _, heads, head_dim = qkv.shape
    keys, values = pair
    parts = triton.cdiv(longest, SPLIT_LENGTH)
    context = torch.empty(count, heads * head_dim, dtype=qkv.dtype, device=qkv.device) if out is None else out
    found, sums = context, context
    if parts > 1:
        found = torch.empty(count, heads, parts, head_dim, dtype=torch.float32, device=qkv.device)
        sums = torch.empty(count, heads, parts, 2, dtype=torch.float32, device=qkv.device)
    sizes: dict[str, Any] = {"HEADS": heads, "HEAD_DIM": head_dim, "SPLIT_LENGTH": SPLIT_LENGTH, "NUM_SPLITS": parts}
    attend_split[(count, heads, parts)](
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
        **pdl_args(qkv.device),
        BLOCK=BLOCK,
        num_warps=4,
    )
    if parts > 1:
        padded = triton.next_power_of_2(parts)
        merge_splits[(count, heads)](
            found,
            sums,
            lengths,
            context,
            keys.shape[2],
            **sizes,
            **pdl_args(qkv.device),
            NUM_SPLITS_PADDED=padded,
            num_warps=2,
        )
    return context

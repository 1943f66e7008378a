"""Sampling in Triton: two kernels in place of some fifty torch operations.

The first one computes the maxima of groups of logits. A row's W largest logits lie in the W groups with the largest
maxima, so that the second one, with a single program for each row, reads only those.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl

from ..dispatch import pdl_args
from .selection import MISSING, find_threshold, pack, place_largest, to_floats, to_keys, unpack
from .tiles import wait_for_inputs

BLOCK_LOGITS = 2048  # logits per program of the first kernel
SAMPLE_WARPS = 8


@triton.jit
def load_keys(
    logits,
    banned,
    seen,
    penalty,
    temperature,
    num_sampled,
    min_new_tokens,
    eos_token_id,
    vocab_size,
    row,
    ids,
):
    """Load a row's logits of tokens `ids` and process them: bans, minimum length, repetition penalty, temperature.

    Returns:
        Their keys, see `selection`.
    """
    mask = ids < vocab_size
    offsets = row.to(tl.int64) * vocab_size + ids
    x = tl.load(logits + offsets, mask=mask, other=0.0).to(tl.float32)
    is_banned = tl.load(banned + offsets, mask=mask, other=0) != 0
    too_short = tl.load(num_sampled + row) < tl.load(min_new_tokens + row)
    is_banned = is_banned | ((ids == eos_token_id) & too_short)
    is_seen = tl.load(seen + offsets, mask=mask, other=0) != 0
    p = tl.load(penalty + row)
    x = tl.where(is_seen, tl.where(x > 0, x / p, x * p), x) / tl.load(temperature + row)
    return tl.where(mask, to_keys(tl.where(is_banned, -float("inf"), x)), MISSING)


@triton.jit
def find_group_maxima(
    logits,
    banned,
    seen,
    penalty,
    temperature,
    num_sampled,
    min_new_tokens,
    eos_token_id,
    vocab_size,
    maxima,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the largest key of each group of GROUP logits: maxima [B, GROUPS]."""
    wait_for_inputs(PDL)
    row = tl.program_id(1)
    group = tl.program_id(0) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    keys = load_keys(
        logits,
        banned,
        seen,
        penalty,
        temperature,
        num_sampled,
        min_new_tokens,
        eos_token_id,
        vocab_size,
        row,
        ids,
    )
    tl.store(maxima + row * GROUPS + group, tl.max(keys, 1), mask=group < GROUPS)


@triton.jit
def masked_softmax(values, mask):
    """Return the softmax of the values where `mask` is True, zero elsewhere."""
    exponentials = tl.where(mask, tl.exp(values - tl.max(tl.where(mask, values, -float("inf")), 0)), 0.0)
    return exponentials / tl.sum(exponentials, 0)


@triton.jit
def sample_token(
    logits,
    banned,
    seen,
    penalty,
    temperature,
    num_sampled,
    min_new_tokens,
    eos_token_id,
    vocab_size,
    maxima,
    groups,
    words,
    top_k,
    top_p,
    uniform,
    do_sample,
    tokens,
    max_new_tokens,
    nan_token,
    NUM_CANDIDATES: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
):
    """Sample one row's token from its NUM_CANDIDATES most likely ones; update `num_sampled` and `seen`.

    WIDTH is NUM_CANDIDATES, rounded up to a power of two. `groups` and `words` [B, WIDTH] pass numbers between threads.
    """
    wait_for_inputs(PDL)
    row, rank = tl.program_id(0), tl.arange(0, WIDTH)
    groups += row * WIDTH
    words += row * WIDTH
    group_index = tl.arange(0, GROUPS)
    largest = tl.load(maxima + row * GROUPS + group_index)
    threshold = find_threshold(largest, tl.min(largest, 0), WIDTH)
    place = place_largest(largest, threshold, WIDTH)
    tl.store(groups + place, group_index, mask=place < WIDTH)
    tl.debug_barrier()
    index = tl.arange(0, WIDTH * GROUP)
    ids = tl.load(groups + index // GROUP) * GROUP + index % GROUP
    keys = load_keys(
        logits,
        banned,
        seen,
        penalty,
        temperature,
        num_sampled,
        min_new_tokens,
        eos_token_id,
        vocab_size,
        row,
        ids,
    )
    place = place_largest(keys, find_threshold(keys, threshold, WIDTH), WIDTH)
    tl.store(words + place, pack(keys, ids), mask=place < WIDTH)
    tl.debug_barrier()
    key, id = unpack(tl.sort(tl.load(words + rank), descending=True))
    is_candidate = rank < NUM_CANDIDATES
    x = tl.where(is_candidate, to_floats(key), -float("inf"))
    mask = is_candidate & (rank < tl.load(top_k + row))
    probabilities = masked_softmax(x, mask)
    before = tl.cumsum(probabilities, 0) - probabilities  # exclusive cumulative sum
    mask = mask & (before <= tl.load(top_p + row))
    cdf = tl.cumsum(masked_softmax(x, mask), 0)
    count = tl.load(num_sampled + row)
    random = tl.load(uniform + row.to(tl.int64) * max_new_tokens + tl.minimum(count, max_new_tokens - 1))
    index = tl.sum((cdf < random * tl.max(cdf, 0)).to(tl.int32), 0)
    index = tl.where(tl.load(do_sample + row) != 0, tl.minimum(index, NUM_CANDIDATES - 1), 0)
    has_nan = tl.sum(tl.where((rank == 0) & (x != x), 1, 0), 0) > 0
    token = tl.where(has_nan, 0, tl.sum(tl.where(rank == index, id, 0), 0))
    tl.store(seen + row.to(tl.int64) * vocab_size + token, 1)
    tl.store(num_sampled + row, count + 1)
    tl.store(tokens + row, tl.where(has_nan, nan_token, token))


def choose_sizes(vocab_size: int, width: int) -> dict[str, int]:
    """Return the number of groups and their size, powers of two, for which a program reads the fewest numbers."""
    size = triton.next_power_of_2(max(1, math.isqrt(vocab_size // width)))
    return {"GROUPS": max(width, triton.next_power_of_2(triton.cdiv(vocab_size, size))), "GROUP": size}


def sample(
    logits: torch.Tensor,
    banned: torch.Tensor,
    seen: torch.Tensor,
    penalty: torch.Tensor,
    temperature: torch.Tensor,
    counts: tuple[torch.Tensor, torch.Tensor],
    eos_token_id: int,
    limits: tuple[torch.Tensor, torch.Tensor],
    uniform: torch.Tensor,
    do_sample: torch.Tensor,
    num_candidates: int,
    nan_token: int,
) -> torch.Tensor:
    """Sample a token [B] for each row; update the first of `counts` and `seen` in place; see `Sampler`.

    Args:
        logits: [B, V] in any dtype.
        banned: bool [B, V], tokens that are never sampled.
        seen: bool [B, V], tokens that the repetition penalty applies to; the sampled token is marked.
        penalty: [B, 1].
        temperature: [B].
        counts: tokens sampled so far, and tokens before which the answer may not end, int64 [B] each.
        eos_token_id: the token that ends an answer.
        limits: top_k int64 [B] and top_p float32 [B], see `engine.sampling.effective_limits`.
        uniform: random numbers [B, max_new_tokens], of which the one at the index of the tokens sampled so far is used.
        do_sample: bool [B]; False takes the most likely token, of equal ones the one with the lowest id.
        num_candidates: W, the number of most likely tokens that are candidates; at least each top_k, at most V.
        nan_token: returned in place of a token whose row contains NaN.
    """
    rows, vocab_size = logits.shape
    width = triton.next_power_of_2(num_candidates)
    sizes: dict[str, Any] = choose_sizes(vocab_size, width)
    maxima = torch.empty(rows, sizes["GROUPS"], dtype=torch.int32, device=logits.device)
    groups = torch.empty(rows, width, dtype=torch.int32, device=logits.device)
    words = torch.empty(rows, width, dtype=torch.long, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.long, device=logits.device)
    state = logits, view_as_bytes(banned), view_as_bytes(seen), penalty, temperature, *counts, eos_token_id, vocab_size
    sizes |= pdl_args(logits.device)
    blocks = triton.cdiv(sizes["GROUPS"] * sizes["GROUP"], BLOCK_LOGITS)
    find_group_maxima[(blocks, rows)](*state, maxima, **sizes, BLOCK=BLOCK_LOGITS)
    sample_token[(rows,)](
        *state,
        maxima,
        groups,
        words,
        *limits,
        uniform,
        view_as_bytes(do_sample),
        tokens,
        uniform.shape[1],
        nan_token,
        NUM_CANDIDATES=num_candidates,
        WIDTH=width,
        **sizes,
        num_warps=SAMPLE_WARPS,
    )
    return tokens


def view_as_bytes(flags: torch.Tensor) -> torch.Tensor:
    """View a boolean tensor as uint8."""
    return flags.view(torch.uint8)

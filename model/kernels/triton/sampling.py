"""Sampling in Triton: two kernels around torch's topk, in place of some forty torch operations."""

import torch
import triton
import triton.language as tl

BLOCK_LOGITS = 2048  # logits per program


@triton.jit
def process_logits_block(
    logits,
    banned,
    seen,
    penalty,
    temperature,
    num_sampled,
    min_new_tokens,
    eos_token_id,
    out,
    vocab_size,
    BLOCK: tl.constexpr,
):
    """Process a block of one row's logits: bans, minimum length, repetition penalty, temperature."""
    row = tl.program_id(1)
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = ids < vocab_size
    offsets = row.to(tl.int64) * vocab_size + ids
    x = tl.load(logits + offsets, mask=mask, other=0.0).to(tl.float32)
    is_banned = tl.load(banned + offsets, mask=mask, other=0) != 0
    too_short = tl.load(num_sampled + row) < tl.load(min_new_tokens + row)
    is_banned = is_banned | ((ids == eos_token_id) & too_short)
    is_seen = tl.load(seen + offsets, mask=mask, other=0) != 0
    p = tl.load(penalty + row)
    x = tl.where(is_seen, tl.where(x > 0, x / p, x * p), x) / tl.load(temperature + row)
    tl.store(out + offsets, tl.where(is_banned, -float("inf"), x), mask=mask)


@triton.jit
def masked_softmax(values, mask):
    """Return the softmax of the values where `mask` is True, zero elsewhere."""
    exponentials = tl.where(mask, tl.exp(values - tl.max(tl.where(mask, values, -float("inf")), 0)), 0.0)
    return exponentials / tl.sum(exponentials, 0)


@triton.jit
def sample_token(
    values,
    ids,
    top_k,
    top_p,
    uniform,
    do_sample,
    num_sampled,
    seen,
    tokens,
    max_new_tokens,
    vocab_size,
    nan_token,
    NUM_CANDIDATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sample one row's token from its candidates, sorted from the most likely; update `num_sampled` and `seen`."""
    row = tl.program_id(0)
    rank = tl.arange(0, BLOCK)
    is_candidate = rank < NUM_CANDIDATES
    x = tl.load(values + row * NUM_CANDIDATES + rank, mask=is_candidate, other=-float("inf"))
    id = tl.load(ids + row * NUM_CANDIDATES + rank, mask=is_candidate, other=vocab_size)
    largest = tl.max(tl.where(rank == 0, x, -float("inf")), 0)
    mask = is_candidate & (rank < tl.load(top_k + row))
    probabilities = masked_softmax(x, mask)
    before = tl.cumsum(probabilities, 0) - probabilities  # exclusive cumulative sum
    mask = mask & (before <= tl.load(top_p + row))
    cdf = tl.cumsum(masked_softmax(x, mask), 0)
    count = tl.load(num_sampled + row)
    random = tl.load(uniform + row.to(tl.int64) * max_new_tokens + tl.minimum(count, max_new_tokens - 1))
    index = tl.sum((cdf < random * tl.max(cdf, 0)).to(tl.int32), 0)
    token = tl.sum(tl.where(rank == tl.minimum(index, NUM_CANDIDATES - 1), id, 0), 0)
    if tl.load(do_sample + row) == 0:
        token = tl.min(tl.where(x == largest, id, vocab_size), 0)  # the lowest id among equals, like argmax
    has_nan = tl.sum(tl.where((rank == 0) & (x != x), 1, 0), 0) > 0  # topk sorts NaN first
    token = tl.where(has_nan, 0, token)
    tl.store(seen + row.to(tl.int64) * vocab_size + token, 1)
    tl.store(num_sampled + row, count + 1)
    tl.store(tokens + row, tl.where(has_nan, nan_token, token))


def process_logits(
    logits: torch.Tensor,
    banned: torch.Tensor,
    seen: torch.Tensor,
    penalty: torch.Tensor,
    temperature: torch.Tensor,
    counts: tuple[torch.Tensor, torch.Tensor],
    eos_token_id: int,
) -> torch.Tensor:
    """Return the penalized logits, float32 [B, V], divided by the temperature, -inf for banned tokens; see `Sampler`.

    Args:
        logits: [B, V] in any dtype.
        banned: bool [B, V], tokens that are never sampled.
        seen: bool [B, V], tokens that the repetition penalty applies to.
        penalty: [B, 1].
        temperature: [B].
        counts: tokens sampled so far, and tokens before which the answer may not end, int64 [B] each.
        eos_token_id: the token that ends an answer.
    """
    rows, vocab_size = logits.shape
    out = torch.empty(logits.shape, device=logits.device)
    process_logits_block[(triton.cdiv(vocab_size, BLOCK_LOGITS), rows)](
        logits,
        view_as_bytes(banned),
        view_as_bytes(seen),
        penalty,
        temperature,
        *counts,
        eos_token_id,
        out,
        vocab_size,
        BLOCK=BLOCK_LOGITS,
    )
    return out


def sample_candidates(
    values: torch.Tensor,
    ids: torch.Tensor,
    limits: tuple[torch.Tensor, torch.Tensor],
    uniform: torch.Tensor,
    do_sample: torch.Tensor,
    num_sampled: torch.Tensor,
    seen: torch.Tensor,
    nan_token: int,
) -> torch.Tensor:
    """Sample a token [B] from each row's candidates; update `num_sampled` and `seen` in place.

    Args:
        values: logits [B, W] of the candidates, the largest first.
        ids: token ids [B, W] of the candidates.
        limits: top_k int64 [B] and top_p float32 [B], see `engine.sampling.effective_limits`.
        uniform: random numbers [B, max_new_tokens], of which the one at index `num_sampled` is used.
        do_sample: bool [B]; False takes the most likely token.
        num_sampled: int64 [B], tokens sampled so far.
        seen: bool [B, V], where the sampled token is marked.
        nan_token: returned in place of a token whose row contains NaN.
    """
    rows, num_candidates = values.shape
    tokens = torch.empty(rows, dtype=torch.long, device=values.device)
    sample_token[(rows,)](
        values,
        ids,
        *limits,
        uniform,
        view_as_bytes(do_sample),
        num_sampled,
        view_as_bytes(seen),
        tokens,
        uniform.shape[1],
        seen.shape[1],
        nan_token,
        NUM_CANDIDATES=num_candidates,
        BLOCK=triton.next_power_of_2(num_candidates),
        num_warps=4,
    )
    return tokens


def view_as_bytes(flags: torch.Tensor) -> torch.Tensor:
    """View a boolean tensor as uint8."""
    return flags.view(torch.uint8)

"""Drawing tokens on a GPU: two kernels around torch's topk, where torch's own operations would be forty."""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # logits of a program


@triton.jit
def process_logits_block(
    logits,
    banned,
    seen,
    penalty,
    temperature,
    drawn,
    shortest,
    eos_token_id,
    out,
    vocab_size,
    BLOCK: tl.constexpr,
):
    """Restrict some of one row's logits: ban, forbid an early end, lower what was seen, divide by the temperature."""
    row = tl.program_id(1)
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    within = ids < vocab_size
    places = row.to(tl.int64) * vocab_size + ids
    x = tl.load(logits + places, mask=within, other=0.0)
    never = tl.load(banned + places, mask=within, other=0) != 0
    never = never | ((ids == eos_token_id) & (tl.load(drawn + row) < tl.load(shortest + row)))
    known = tl.load(seen + places, mask=within, other=0) != 0
    p = tl.load(penalty + row)
    x = tl.where(known, tl.where(x > 0, x / p, x * p), x) / tl.load(temperature + row)
    tl.store(out + places, tl.where(never, -float("inf"), x), mask=within)


@triton.jit
def masked_softmax(values, inside):
    """Return the softmax of the values that are `inside`, which has the first, the highest."""
    weights = tl.where(inside, tl.exp(values - tl.max(tl.where(inside, values, -float("inf")), 0)), 0.0)
    return weights / tl.sum(weights, 0)


@triton.jit
def sample_token(
    values,
    ids,
    top_k,
    top_p,
    uniform,
    sampled,
    drawn,
    seen,
    tokens,
    longest,
    vocab_size,
    broken,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw one row's token among its candidates, which come most likely first, and note it."""
    row = tl.program_id(0)
    rank = tl.arange(0, BLOCK)
    there = rank < WIDTH
    x = tl.load(values + row * WIDTH + rank, mask=there, other=-float("inf"))
    id = tl.load(ids + row * WIDTH + rank, mask=there, other=vocab_size)
    first = tl.max(tl.where(rank == 0, x, -float("inf")), 0)
    inside = there & (rank < tl.load(top_k + row))
    before = masked_softmax(x, inside)
    before = tl.cumsum(before, 0) - before
    inside = inside & (before <= tl.load(top_p + row))
    reached = tl.cumsum(masked_softmax(x, inside), 0)
    count = tl.load(drawn + row)
    number = tl.load(uniform + row.to(tl.int64) * longest + tl.minimum(count, longest - 1))
    place = tl.sum((reached < number * tl.max(reached, 0)).to(tl.int32), 0)
    token = tl.sum(tl.where(rank == tl.minimum(place, WIDTH - 1), id, 0), 0)
    if tl.load(sampled + row) == 0:
        token = tl.min(tl.where(x == first, id, vocab_size), 0)  # of equals the first, as argmax does
    is_broken = tl.sum(tl.where((rank == 0) & (x != x), 1, 0), 0) > 0  # what is no number comes first of all
    token = tl.where(is_broken, 0, token)
    tl.store(seen + row.to(tl.int64) * vocab_size + token, 1)
    tl.store(drawn + row, count + 1)
    tl.store(tokens + row, tl.where(is_broken, broken, token))


def process_logits(
    logits: torch.Tensor,
    banned: torch.Tensor,
    seen: torch.Tensor,
    penalty: torch.Tensor,
    temperature: torch.Tensor,
    counts: tuple[torch.Tensor, torch.Tensor],
    eos_token_id: int,
) -> torch.Tensor:
    """Return logits [B, V] divided by the temperature, -inf where a token may not be drawn; see `Sampler`.

    Args:
        counts: tokens drawn, and tokens before which the answer may not end, int64 [B].
    """
    rows, vocab_size = logits.shape
    out = torch.empty_like(logits)
    process_logits_block[(triton.cdiv(vocab_size, BLOCK), rows)](
        logits,
        as_bytes(banned),
        as_bytes(seen),
        penalty,
        temperature,
        *counts,
        eos_token_id,
        out,
        vocab_size,
        BLOCK=BLOCK,
    )
    return out


def sample_candidates(
    values: torch.Tensor,
    ids: torch.Tensor,
    limits: tuple[torch.Tensor, torch.Tensor],
    uniform: torch.Tensor,
    sampled: torch.Tensor,
    drawn: torch.Tensor,
    seen: torch.Tensor,
    broken: int,
) -> torch.Tensor:
    """Return a token [B] of each row's candidates [B, W], most likely first; `drawn` and `seen` take note of it.

    Args:
        limits: top_k int64 [B] and top_p float32 [B], as of `generation.sampling.limits`.
        uniform: random numbers [B, longest], of which the one at `drawn` counts.
        broken: what stands for the token where the highest value is no number.
    """
    rows, width = values.shape
    tokens = torch.empty(rows, dtype=torch.long, device=values.device)
    sample_token[(rows,)](
        values,
        ids,
        *limits,
        uniform,
        as_bytes(sampled),
        drawn,
        as_bytes(seen),
        tokens,
        uniform.shape[1],
        seen.shape[1],
        broken,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=4,
    )
    return tokens


def as_bytes(flags: torch.Tensor) -> torch.Tensor:
    """View booleans as the bytes that they are."""
    return flags.view(torch.uint8)

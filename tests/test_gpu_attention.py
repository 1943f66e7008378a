"""The GPU's attention kernels give what torch's operations give, and leave the same in the cache."""

import os
from typing import Any

import pytest
import torch

from model.generation import attention
from model.generation.cache import KVCache, answer_positions
from model.rotary import RotaryEmbedding
from tests.conftest import relative_error

pytest.importorskip("triton", reason="triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device, or Triton's interpreter (TRITON_INTERPRET=1)"
)
HEADS = 3
ROOM = 600


def make_cache(contexts: list[int], head_dim: int) -> KVCache:
    """Return a cache with rows that are about to read contexts of these lengths."""
    cache = KVCache(2, (len(contexts) + 1, HEADS, ROOM, head_dim), torch.device(DEVICE), torch.float32)
    rotary = RotaryEmbedding(head_dim // 2).to(DEVICE)
    for row, context in enumerate(contexts, start=1):
        positions = answer_positions(context + 1, ROOM, torch.device(DEVICE))
        cache.begin_row(row, context, rotary.angles(positions.transpose(0, 1)))
    return cache


def random_qkv(count: int, head_dim: int, by_head: bool) -> torch.Tensor:
    """Return [N, 3, H, head_dim] in either order of a checkpoint's rows."""
    if by_head:
        return torch.randn(count, HEADS, 3, head_dim, device=DEVICE).transpose(1, 2)
    return torch.randn(count, 3, HEADS, head_dim, device=DEVICE)


@pytest.mark.parametrize(("head_dim", "by_head"), [(16, False), (64, True)])
@pytest.mark.parametrize("contexts", [[5], [3, 300, 70]])
def test_prompts_and_tokens(contexts: list[int], head_dim: int, by_head: bool) -> None:
    from model.generation import gpu_attention

    expected, actual = make_cache(contexts, head_dim), make_cache(contexts, head_dim)
    qkv = random_qkv(sum(contexts) + len(contexts), head_dim, by_head)
    results: list[tuple[Any, Any]] = []
    for layer in range(2):
        ways = ((attention, expected), (gpu_attention, actual))
        results.append(tuple(way.attend_prompts(cache, 1, contexts)(layer, qkv) for way, cache in ways))
    for cache in (expected, actual):
        cache.lengths[1:] += 1
        cache.lengths[0] = ROOM + 7  # of a row not in use, anything may stand here
    for step in range(2):
        longest = max(contexts) + 2 + step
        qkv = random_qkv(len(contexts) + 1, head_dim, by_head)
        expected_rows = without_first_row(expected)
        want = attention.attend_tokens(expected_rows, len(contexts), longest)(1, qkv[: len(contexts)])
        actual_rows = without_first_row(actual)
        actual_rows.used.fill_(len(contexts))
        bound = -(-longest // 256) * 256
        results.append((want, gpu_attention.attend_tokens(actual_rows, len(contexts), bound)(1, qkv[: len(contexts)])))
        for cache in (expected, actual):
            cache.lengths[1:] += 1
    for want, got in results:
        assert relative_error(got, want) < 1e-5
    assert relative_error(actual.layers, expected.layers) < 1e-6


def without_first_row(cache: KVCache) -> KVCache:
    """Return a cache that has all rows but the first, in the same memory."""
    rest = KVCache(0, (1, HEADS, ROOM, cache.cos.shape[2]), torch.device(DEVICE), torch.float32)
    rest.pairs = [(keys[1:], values[1:]) for keys, values in cache.pairs]
    rest.cos, rest.sin, rest.lengths = cache.cos[1:], cache.sin[1:], cache.lengths[1:]
    return rest


def test_rows_not_in_use_are_left_alone() -> None:
    from model.generation import gpu_attention

    cache = make_cache([4, 4], 16)
    cache.lengths[2] = ROOM + 1
    cache.used.fill_(2)
    before = cache.layers.clone()
    gpu_attention.attend_tokens(cache, 3, 256)(0, random_qkv(3, 16, False))
    changed = (cache.layers != before).flatten(3).any(-1)[0]  # [2, R, H]
    assert changed[1, :2].all() and not changed[:, 2].any()

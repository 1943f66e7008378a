"""The GPU's attention kernels give what torch's operations give, and leave the same in the cache."""

import os

import pytest
import torch

from model.engine import layers as attention
from model.engine.kv_cache import KVCache
from model.kernels.torch_ops import rotary_tables
from tests.conftest import relative_error

pytest.importorskip("triton", reason="triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device, or Triton's interpreter (TRITON_INTERPRET=1)"
)
HEADS = 3
ROOM = 600


def make_cache(contexts: list[int], head_dim: int, start: int = 0) -> KVCache:
    """Return a cache with rows that are about to read contexts of these lengths behind a prefix of length `start`."""
    shape = len(contexts) + 1, HEADS, ROOM, head_dim
    cache = KVCache(2, shape, torch.device(DEVICE), torch.float32, start)
    if start:
        generator = torch.Generator().manual_seed(start)
        prefix = torch.randn(2, 2, HEADS, start, head_dim, generator=generator).to(DEVICE)
        cache.write_prefix(slice(1, len(contexts) + 1), list(prefix))
    table = torch.stack(rotary_tables(torch.arange(ROOM + 1), head_dim // 2, torch.float32)).to(DEVICE)
    rows = torch.arange(1, len(contexts) + 1, device=DEVICE)
    cache.set_positions(rows, torch.tensor(contexts, device=DEVICE), table)
    return cache


def random_qkv(count: int, head_dim: int, by_head: bool) -> torch.Tensor:
    """Return [N, 3, H, head_dim] in either order of a checkpoint's rows."""
    if by_head:
        return torch.randn(count, HEADS, 3, head_dim, device=DEVICE).transpose(1, 2)
    return torch.randn(count, 3, HEADS, head_dim, device=DEVICE)


def spread(qkv: torch.Tensor, contexts: list[int]) -> torch.Tensor:
    """Give every context as many places as the longest has; what is in the places left over is no number."""
    longest = max(contexts)
    places = torch.full((len(contexts), longest, *qkv.shape[1:]), float("nan"), device=DEVICE)
    for number, part in enumerate(qkv[: sum(contexts)].split(contexts)):
        places[number, : len(part)] = part
    return torch.cat((places.flatten(0, 1), qkv[sum(contexts) :]))


@pytest.mark.parametrize(("head_dim", "by_head"), [(16, False), (64, True)])
@pytest.mark.parametrize("contexts", [[5], [3, 300, 70]])
@pytest.mark.parametrize("start", [0, 9])
def test_prompts_and_tokens(contexts: list[int], head_dim: int, by_head: bool, start: int) -> None:
    from model.kernels.triton.decode_attention import attend_decode
    from model.kernels.triton.prefill_attention import attend_prefill

    expected, actual = make_cache(contexts, head_dim, start), make_cache(contexts, head_dim, start)
    rows, lengths = torch.arange(1, len(contexts) + 1, device=DEVICE), torch.tensor(contexts, device=DEVICE) + start
    past = (actual.cos, actual.sin), actual.layers[1], lengths
    qkv = random_qkv(sum(contexts) + len(contexts), head_dim, by_head)
    want = attention.make_prefill_attention(expected, 1, contexts)(1, qkv.clone())  # it takes what it is given
    padded = spread(qkv, contexts)
    tokens = len(contexts) * max(contexts)
    got = torch.zeros(len(padded), HEADS * head_dim, device=DEVICE)
    attend_prefill(padded[:tokens], *past, rows, start, got[:tokens])
    attend_decode(padded[tokens:], *past, start + max(contexts) + 1, rows, got[tokens:])
    parts = [got[n * max(contexts) :][:length] for n, length in enumerate(contexts)]
    assert relative_error(torch.cat((*parts, got[tokens:])).cpu(), want.cpu()) < 1e-5
    for step in range(2):
        lengths += 1
        expected.lengths[1:] = lengths
        longest = start + max(contexts) + 2 + step
        qkv = random_qkv(len(contexts), head_dim, by_head)
        want = attention.make_decode_attention(without_first_row(expected), len(contexts), longest)(1, qkv.clone())
        got = attend_decode(qkv, *past, -(-longest // 256) * 256, rows)
        assert relative_error(got.cpu(), want.cpu()) < 1e-5
    assert relative_error(actual.key_values.cpu(), expected.key_values.cpu()) < 1e-6


def without_first_row(cache: KVCache) -> KVCache:
    """Return a cache that has all rows but the first, in the same memory."""
    rest = KVCache(0, (1, HEADS, ROOM, cache.cos_sin.shape[3]), torch.device(DEVICE), torch.float32)
    rest.key_values = cache.key_values[:, :, 1:]
    rest.layers = [(keys[1:], values[1:]) for keys, values in cache.layers]
    rest.cos_sin, rest.lengths = cache.cos_sin[1:], cache.lengths[1:]
    return rest


def test_rows_not_in_use_are_left_alone() -> None:
    from model.kernels.triton.decode_attention import attend_decode

    cache = make_cache([4, 4], 16)
    cache.lengths[:] = torch.tensor([4, 9, -1])
    before = cache.key_values.clone()
    past = (cache.cos, cache.sin), cache.layers[0], cache.lengths
    attend_decode(random_qkv(3, 16, False), *past, 256)
    changed = (cache.key_values != before).flatten(3).any(-1)[0]  # [2, R, H]
    assert changed[1, :2].all() and not changed[:, 2].any()

"""The Triton attention kernels compute the same as torch's operations, and write the same to the KV cache."""

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
CAPACITY = 600


def make_cache(contexts: list[int], head_dim: int, prefix_length: int = 0) -> KVCache:
    """Return a cache whose slots from 1 on are prepared for contexts of these lengths, with an optional prefix."""
    shape = len(contexts) + 1, HEADS, CAPACITY, head_dim
    cache = KVCache(2, shape, torch.device(DEVICE), torch.float32, prefix_length)
    if prefix_length:
        generator = torch.Generator().manual_seed(prefix_length)
        prefix = torch.randn(2, 2, HEADS, prefix_length, head_dim, generator=generator).to(DEVICE)
        cache.write_prefix(slice(1, len(contexts) + 1), list(prefix))
    table = torch.stack(rotary_tables(torch.arange(CAPACITY + 1), head_dim // 2, torch.float32)).to(DEVICE)
    slots = torch.arange(1, len(contexts) + 1, device=DEVICE)
    cache.set_positions(slots, torch.tensor(contexts, device=DEVICE), table)
    return cache


def random_qkv(count: int, head_dim: int, interleaved: bool) -> torch.Tensor:
    """Return qkv [N, 3, H, head_dim] in either layout of a checkpoint's rows."""
    if interleaved:
        return torch.randn(count, HEADS, 3, head_dim, device=DEVICE).transpose(1, 2)
    return torch.randn(count, 3, HEADS, head_dim, device=DEVICE)


def pad_contexts(qkv: torch.Tensor, contexts: list[int]) -> torch.Tensor:
    """Pad every context to the longest one, with NaN."""
    longest = max(contexts)
    padded = torch.full((len(contexts), longest, *qkv.shape[1:]), float("nan"), device=DEVICE)
    for index, part in enumerate(qkv[: sum(contexts)].split(contexts)):
        padded[index, : len(part)] = part
    return torch.cat((padded.flatten(0, 1), qkv[sum(contexts) :]))


@pytest.mark.parametrize(("head_dim", "interleaved"), [(16, False), (64, True)])
@pytest.mark.parametrize("contexts", [[5], [3, 300, 70]])
@pytest.mark.parametrize("prefix_length", [0, 9])
def test_prefill_and_decode_attention_equal_torch(
    contexts: list[int], head_dim: int, interleaved: bool, prefix_length: int
) -> None:
    from model.kernels.triton.decode_attention import attend_decode
    from model.kernels.triton.prefill_attention import attend_prefill

    expected, actual = make_cache(contexts, head_dim, prefix_length), make_cache(contexts, head_dim, prefix_length)
    slots = torch.arange(1, len(contexts) + 1, device=DEVICE)
    lengths = torch.tensor(contexts, device=DEVICE) + prefix_length
    cache_args = (actual.cos, actual.sin), actual.layers[1], lengths
    qkv = random_qkv(sum(contexts) + len(contexts), head_dim, interleaved)
    attend = attention.make_prefill_attention(expected, 1, contexts)
    expected_context = attend(1, qkv.clone())  # a copy, because it overwrites its input
    padded = pad_contexts(qkv, contexts)
    tokens = len(contexts) * max(contexts)
    actual_context = torch.zeros(len(padded), HEADS * head_dim, device=DEVICE)
    attend_prefill(padded[:tokens], *cache_args, slots, prefix_length, actual_context[:tokens])
    attend_decode(padded[tokens:], *cache_args, prefix_length + max(contexts) + 1, slots, actual_context[tokens:])
    parts = [actual_context[n * max(contexts) :][:length] for n, length in enumerate(contexts)]
    assert relative_error(torch.cat((*parts, actual_context[tokens:])).cpu(), expected_context.cpu()) < 1e-5
    for step in range(2):
        lengths += 1
        expected.lengths[1:] = lengths
        longest = prefix_length + max(contexts) + 2 + step
        qkv = random_qkv(len(contexts), head_dim, interleaved)
        attend = attention.make_decode_attention(without_first_slot(expected), len(contexts), longest)
        expected_context = attend(1, qkv.clone())
        actual_context = attend_decode(qkv, *cache_args, -(-longest // 256) * 256, slots)
        assert relative_error(actual_context.cpu(), expected_context.cpu()) < 1e-5
    assert relative_error(actual.key_values.cpu(), expected.key_values.cpu()) < 1e-6


def without_first_slot(cache: KVCache) -> KVCache:
    """Return a cache of all slots but the first, which shares their memory."""
    rest = KVCache(0, (1, HEADS, CAPACITY, cache.cos_sin.shape[3]), torch.device(DEVICE), torch.float32)
    rest.key_values = cache.key_values[:, :, 1:]
    rest.layers = [(keys[1:], values[1:]) for keys, values in cache.layers]
    rest.cos_sin, rest.lengths = cache.cos_sin[1:], cache.lengths[1:]
    return rest


def test_free_slots_are_not_modified() -> None:
    from model.kernels.triton.decode_attention import attend_decode

    cache = make_cache([4, 4], 16)
    cache.lengths[:] = torch.tensor([4, 9, -1])
    before = cache.key_values.clone()
    cache_args = (cache.cos, cache.sin), cache.layers[0], cache.lengths
    attend_decode(random_qkv(3, 16, False), *cache_args, 256)
    changed = (cache.key_values != before).flatten(3).any(-1)[0]  # [2, slots, H]
    assert changed[1, :2].all() and not changed[:, 2].any()

"""The Triton attention kernels compute the same as torch's operations, and write the same to the KV cache."""

import os

import pytest
import torch

from model.engine import layers as attention
from model.engine.kv_cache import CacheSlots, KVCache
from model.engine.sequence_kv_cache import SequenceKVCache
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
    """Return torch's cache; its slots from 1 on are prepared for contexts of these lengths, with an optional prefix."""
    shape = len(contexts) + 1, HEADS, CAPACITY, head_dim
    cache = KVCache(2, shape, torch.device(DEVICE), torch.float32, prefix_length)
    prepare(cache, contexts)
    return cache


def make_gpu_cache(contexts: list[int], head_dim: int, prefix_length: int = 0) -> SequenceKVCache:
    """Return the kernels' cache, prepared like `make_cache`; slots have room for three tokens after their contexts."""
    shape = len(contexts) + 1, HEADS, CAPACITY, head_dim
    cache = SequenceKVCache(2, shape, torch.device(DEVICE), torch.float32, prefix_length)
    cache.reserve(1, [length + 3 for length in contexts])
    prepare(cache, contexts)
    return cache


def prepare(cache: CacheSlots, contexts: list[int]) -> None:
    """Write the prefix and the rotary tables of contexts of these lengths into the slots from 1 on."""
    head_dim, prefix_length = cache.cos_sin.shape[3], cache.prefix_length
    if prefix_length:
        generator = torch.Generator().manual_seed(prefix_length)
        prefix = torch.randn(2, 2, HEADS, prefix_length, head_dim, generator=generator).to(DEVICE)
        cache.write_prefix(range(1, len(contexts) + 1), list(prefix))
    table = torch.stack(rotary_tables(torch.arange(CAPACITY + 1), head_dim // 2, torch.float32)).to(DEVICE)
    slots = torch.arange(1, len(contexts) + 1, device=DEVICE)
    cache.set_positions(slots, torch.tensor(contexts, device=DEVICE), table)


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

    expected, actual = make_cache(contexts, head_dim, prefix_length), make_gpu_cache(contexts, head_dim, prefix_length)
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
    for slot, length in enumerate(lengths.tolist(), start=1):
        [key_values] = actual.occupied([slot])
        kept, same = key_values[1, :, :, : length + 1], expected.key_values[1, :, slot, :, : length + 1]
        assert relative_error(kept.cpu(), same.cpu()) < 1e-6


@pytest.mark.parametrize("tile", [(64, 4), (32, 2), (16, 2), (8, 1)])
def test_every_tile_of_decode_attention_equals_torch(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from model.kernels.triton import decode_attention

    monkeypatch.setattr(decode_attention, "choose_config", lambda *_: decode_attention.AttentionConfig(*tile))
    test_prefill_and_decode_attention_equal_torch([3, 300, 70], 64, True, 9)


def test_tiles_follow_the_number_of_sequences_only_in_half_precision() -> None:
    from model.kernels.triton.decode_attention import choose_config

    def tiles(longest: int, dtype: torch.dtype) -> list[int]:
        return [choose_config(32 * count, longest, 1, dtype).block_k for count in (1, 8, 9, 16, 17, 32, 33, 256)]

    assert tiles(256, torch.float16) == [64, 64, 32, 32, 16, 16, 8, 8]
    assert tiles(512, torch.float16) == [64, 64, 32, 32, 16, 16, 16, 16]
    assert len({*tiles(256, torch.float32), *tiles(512, torch.float32)}) == 1


def without_first_slot(cache: KVCache) -> KVCache:
    """Return a cache of all slots but the first, which shares their memory."""
    rest = KVCache(0, (1, HEADS, CAPACITY, cache.cos_sin.shape[3]), torch.device(DEVICE), torch.float32)
    rest.key_values = cache.key_values[:, :, 1:]
    rest.layers = [(keys[1:], values[1:]) for keys, values in cache.layers]
    rest.cos_sin, rest.lengths = cache.cos_sin[1:], cache.lengths[1:]
    return rest


def test_free_slots_are_not_modified() -> None:
    from model.kernels.triton.decode_attention import attend_decode

    cache = make_gpu_cache([4, 9, 4], 16)
    cache.lengths[:] = torch.tensor([-1, 4, 9, -1])
    slots = cache.occupied(range(1, 4))
    before = [key_values.zero_().clone() for key_values in slots]
    attend_decode(random_qkv(4, 16, False), (cache.cos, cache.sin), cache.layers[0], cache.lengths, 256)
    changed = [(now != zeros).flatten(3).any(-1) for now, zeros in zip(slots, before, strict=True)]  # [layers, 2, H]
    assert changed[0][0].all() and changed[1][0].all() and not changed[2].any()
    assert not changed[0][1].any() and not changed[1][1].any()


def test_a_moved_sequence_keeps_its_memory_and_attends_to_it() -> None:
    from model.kernels.triton.decode_attention import attend_decode

    contexts, qkv = [4, 70], random_qkv(1, 16, False)
    results = []
    for moves in (False, True):
        cache = make_gpu_cache(contexts, 16)
        [memory] = cache.occupied([2])
        memory[:] = torch.randn(memory.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        slot = 2
        if moves:
            cache = cache.grown(5, CAPACITY + 10)
            cache.free_slot(1)
            cache.move_slot(2, slot := 1, 70)
            assert cache.occupied(range(5)) == [memory]
        lengths, slots = torch.tensor([70], device=DEVICE), torch.tensor([slot], device=DEVICE)
        results.append(attend_decode(qkv, (cache.cos, cache.sin), cache.layers[1], lengths, 256, slots))
    assert torch.equal(*results)


def test_each_sequence_reserves_what_it_may_need() -> None:
    cache = SequenceKVCache(2, (4, HEADS, CAPACITY, 16), torch.device(DEVICE), torch.float32)
    cache.reserve(0, [5, 500])
    positions = [key_values.shape[3] for key_values in cache.occupied(range(4))]
    assert 5 <= positions[0] < 40 and 500 <= positions[1] < 540
    assert cache.table[:2, 1].tolist() == positions
    cache.reserve(1, [7, 7, 7])
    assert [len(cache.occupied([slot])) for slot in range(4)] == [1, 1, 1, 1]
    assert sum(key_values.shape[3] for key_values in cache.occupied(range(4))) < 160


def test_slots_stay_free_without_memory_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SequenceKVCache(2, (4, HEADS, CAPACITY, 16), torch.device(DEVICE), torch.float32)
    cache.reserve(0, [5])
    empty, shapes = torch.empty, []

    def allocate_once(*args, **kwargs):
        shapes.append(args)
        if len(shapes) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", allocate_once)
    with pytest.raises(torch.OutOfMemoryError):
        cache.reserve(1, [5, 5, 5])
    assert [len(cache.occupied([slot])) for slot in range(4)] == [1, 0, 0, 0]

"""Kernels with Programmatic Dependent Launch (PDL) access only constants before they wait for preceding kernels.

TRITON_INTERPRET=1 python -m pytest tests/model/kernels/test_pdl.py         without a GPU; needs triton
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from model.kernels import dispatch, norm
from model.kernels.autotune import KernelConfig
from model.kernels.epilogue import Epilogue
from tests.model.kernels.test_kernels import DEVICE, INTERPRETED, KINDS, make_case, multiply, needs_triton

LAYERS = 12


class AccessLog:
    """Records the memory accesses of programs in Triton's interpreter.

    Attributes:
        programs: programs started so far.
        waits: programs that have waited for preceding kernels so far.
        late_signals: programs of them that signaled dependent kernels only after they had waited.
        early_addresses: addresses that a program loaded from or stored to before it waited.
    """

    def __init__(self) -> None:
        self.programs = self.waits = self.late_signals = 0
        self.waiting = True
        self.early_addresses: set[int] = set()

    def start(self) -> None:
        self.programs += 1
        self.waiting = True

    def wait(self, _pdl: object) -> None:
        self.waits += self.waiting
        self.waiting = False

    def wait_before_dependents(self, pdl: object) -> None:
        self.late_signals += 1
        self.wait(pdl)

    def access(self, pointers: Any, mask: Any) -> None:
        if self.waiting:
            self.early_addresses.update(pointers.data[mask.data].ravel().tolist())


@pytest.fixture
def access_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[AccessLog]:
    if not INTERPRETED or not dispatch.has_triton(DEVICE):
        pytest.skip("needs Triton's interpreter")
    from triton.runtime.interpreter import interpreter_builder as builder

    log = AccessLog()

    def wrap(name: str, record: Callable[..., None]) -> None:
        original = getattr(builder, name)

        def wrapped(*args: Any) -> Any:
            record(*args)
            return original(*args)

        monkeypatch.setattr(builder, name, wrapped)

    wrap("set_grid_idx", lambda *_: log.start())
    wrap("create_masked_load", lambda pointers, mask, *_: log.access(pointers, mask))
    wrap("create_masked_store", lambda pointers, _, mask, *__: log.access(pointers, mask))
    for name in (*KINDS, "matmul", "tiles", "norm", "prefill_attention"):
        monkeypatch.setattr(importlib.import_module(f"model.kernels.triton.{name}"), "wait_for_inputs", log.wait)
    attention = importlib.import_module("model.kernels.triton.prefill_attention")
    monkeypatch.setattr(attention, "wait_before_dependents", log.wait_before_dependents)
    yield log


def check(log: AccessLog, constants: tuple[torch.Tensor | None, ...]) -> None:
    """Assert that every program waited, and accessed only the constants before."""
    assert log.waits == log.programs > 0
    tensors = [tensor for tensor in constants if tensor is not None]
    ranges = [range(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors]
    assert all(any(address in one for one in ranges) for address in log.early_addresses)


@pytest.mark.parametrize(
    ("rows", "config"),
    [(1, KernelConfig(4, 64, 4, 1)), (3, KernelConfig(16, 64, 4, 1)), (3, KernelConfig(16, 64, 4, 1, 3))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_products_load_only_constants_before_they_wait(
    access_log: AccessLog, kind: str, rows: int, config: KernelConfig
) -> None:
    from model.kernels.triton import launch

    x, weight, epilogue, _ = make_case(kind, (37, 224), rows, torch.float16)
    launch.multiply(kind, x, weight, epilogue, None, config)
    check(access_log, (*weight, epilogue.bias))
    assert bool(access_log.early_addresses) == (rows == 1)  # only the kernel for one row prefetches weights


def test_layer_norm_waits_for_its_input(access_log: AccessLog) -> None:
    x, weight, bias = torch.randn(5, 200), torch.randn(200), torch.randn(200)
    norm.layer_norm(x, weight, bias, 1e-5)
    check(access_log, (weight, bias))
    assert access_log.early_addresses


def test_decode_attention_launches_after_the_keys_of_a_prefill_are_stored(access_log: AccessLog) -> None:
    """Decode attention loads keys before it waits, so the kernel between must not signal it before they are stored."""
    from model.kernels.triton.prefill_attention import attend_prefill
    from tests.model.engine.test_gpu_attention import HEADS, make_gpu_cache, random_qkv

    contexts = [70, 3]
    cache = make_gpu_cache(contexts, 16)
    lengths, slots = torch.tensor(contexts), torch.tensor([1, 2])
    qkv = random_qkv(2 * max(contexts), 16, False)
    out = torch.empty(len(qkv), HEADS * 16)
    access_log.programs = access_log.waits = 0
    attend_prefill(qkv, (cache.cos, cache.sin), cache.layers[0], lengths, slots, 0, out)
    check(access_log, ())
    query_blocks = 2
    assert access_log.late_signals == query_blocks * HEADS * len(contexts)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
def test_pdl_is_disabled_for_weights_that_have_to_be_copied() -> None:
    """The copy that makes a weight contiguous is written by the preceding kernel."""
    from model.kernels.triton import launch

    weight = torch.ones(64, 32, device=DEVICE)
    assert launch.pdl_args(DEVICE, weight, None)["PDL"] == dispatch.supports_pdl(DEVICE)
    assert launch.pdl_args(DEVICE, weight.t(), None) == {"PDL": False}


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_chain_of_kernels_equals_synchronized_kernels(kind: str, rows: int) -> None:
    """Kernels that overlap and reuse one another's memory give the same results as kernels that run one by one."""
    cases = [make_case(kind, shape, rows, torch.float16) for shape in ((4096, 512), (512, 4096))]
    (_, wide, *_), (_, narrow, *_) = cases
    x = torch.zeros(rows, 512, device=DEVICE, dtype=torch.float16)
    ones = torch.ones(512, device=DEVICE, dtype=torch.float16)

    def run(synchronize: Callable[[], None]) -> torch.Tensor:
        y = x
        for _ in range(LAYERS):
            h = norm.layer_norm(y, ones, ones, 1e-5)
            synchronize()
            m = multiply(kind, h, wide, Epilogue(gelu="tanh"))
            synchronize()
            y = multiply(kind, m, narrow, Epilogue(None, None, h, 1.5))
            synchronize()
        return y

    run(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(lambda: None)
    for seed in range(20):
        x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
        expected = run(torch.cuda.synchronize)
        graph.replay()
        assert expected.isfinite().all()
        assert torch.equal(out, expected)


class PrefillChain:
    """Layer norms and attention of a prompt, several times in turn; `x` is its input."""

    def __init__(self) -> None:
        from tests.model.engine.test_gpu_attention import HEADS, make_gpu_cache

        self.heads, self.head_dim, self.context = HEADS, 64, 63
        self.cache = make_gpu_cache([self.context], self.head_dim)
        self.lengths = torch.tensor([self.context], device=DEVICE)
        self.slots = torch.tensor([1], device=DEVICE)
        self.x = torch.zeros(self.context + 1, 3 * HEADS * self.head_dim, device=DEVICE)
        self.ones = torch.ones(self.x.shape[1], device=DEVICE)

    def __call__(self, synchronize: Callable[[], None]) -> torch.Tensor:
        from model.kernels.triton.decode_attention import attend_decode
        from model.kernels.triton.prefill_attention import attend_prefill

        y = self.x
        for number in range(LAYERS):
            qkv = norm.layer_norm(y, self.ones, self.ones, 1e-5).view(len(y), 3, self.heads, self.head_dim)
            synchronize()
            past = (self.cache.cos, self.cache.sin), self.cache.layers[number % len(self.cache.layers)], self.lengths
            context = torch.empty(len(y), self.heads * self.head_dim, device=DEVICE)
            attend_prefill(qkv[: self.context], *past, self.slots, 0, context[: self.context])
            synchronize()
            attend_decode(qkv[self.context :], *past, len(y), self.slots, context[self.context :])
            synchronize()
            y = context.repeat(1, 3)
        return y


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
def test_a_captured_prefill_equals_synchronized_kernels() -> None:
    """Kernels of a prefill that overlap give the same results as kernels that run one by one."""
    prefill = PrefillChain()
    prefill(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = prefill(lambda: None)
    for seed in range(20):
        prefill.x.copy_(torch.randn(prefill.x.shape, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        actual = out.clone()
        expected = prefill(torch.cuda.synchronize)
        assert expected.isfinite().all()
        assert torch.equal(actual, expected)
        prefill.x.zero_()
        prefill(torch.cuda.synchronize)  # stores other keys, so that reading them too early changes the result

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
        early_addresses: addresses that a program loaded from or stored to before it waited.
    """

    def __init__(self) -> None:
        self.programs = self.waits = 0
        self.waiting = True
        self.early_addresses: set[int] = set()

    def start(self) -> None:
        self.programs += 1
        self.waiting = True

    def wait(self, _pdl: object) -> None:
        self.waits += self.waiting
        self.waiting = False

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
    for name in (*KINDS, "matmul", "tiles", "norm"):
        monkeypatch.setattr(importlib.import_module(f"model.kernels.triton.{name}"), "wait_for_inputs", log.wait)
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

"""Kernels that start while the ones before them end touch nothing that these write until they have waited.

TRITON_INTERPRET=1 python -m pytest tests/model/kernels/test_pdl.py         where triton is installed, without a GPU
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from model.kernels import capability, dispatch, norm
from model.kernels.autotune import KernelConfig
from model.kernels.epilogue import Epilogue
from tests.model.kernels.test_kernels import DEVICE, INTERPRETED, KINDS, make_case, multiply, needs_triton

LAYERS = 12


class Watched:
    """What Triton's interpreter does, program by program.

    Attributes:
        programs: started so far.
        waits: of the programs, so far.
        touched: addresses that a program loaded from or stored to before it waited.
    """

    def __init__(self) -> None:
        self.programs = self.waits = 0
        self.waiting = True
        self.touched: set[int] = set()

    def start(self) -> None:
        self.programs += 1
        self.waiting = True

    def wait(self, _early: object) -> None:
        self.waits += self.waiting
        self.waiting = False

    def touch(self, pointers: Any, mask: Any) -> None:
        if self.waiting:
            self.touched.update(pointers.data[mask.data].ravel().tolist())


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    if not INTERPRETED or not dispatch.has_triton(DEVICE):
        pytest.skip("needs Triton's interpreter")
    from triton.runtime.interpreter import interpreter_builder as builder

    watch = Watched()

    def follow(name: str, tell: Callable[..., None]) -> None:
        original = getattr(builder, name)

        def both(*args: Any) -> Any:
            tell(*args)
            return original(*args)

        monkeypatch.setattr(builder, name, both)

    follow("set_grid_idx", lambda *_: watch.start())
    follow("create_masked_load", lambda pointers, mask, *_: watch.touch(pointers, mask))
    follow("create_masked_store", lambda pointers, _, mask, *__: watch.touch(pointers, mask))
    for name in (*KINDS, "tiles", "norm"):
        monkeypatch.setattr(importlib.import_module(f"model.kernels.triton.{name}"), "wait_for_inputs", watch.wait)
    yield watch


def check(watch: Watched, constants: tuple[torch.Tensor | None, ...]) -> None:
    """Every program waited, and touched but the constants before."""
    assert watch.waits == watch.programs > 0
    there = [tensor for tensor in constants if tensor is not None]
    inside = [range(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in there]
    assert all(any(address in one for one in inside) for address in watch.touched)


@pytest.mark.parametrize(
    ("rows", "tile"),
    [(1, KernelConfig(4, 64, 4, 1)), (3, KernelConfig(16, 64, 4, 1)), (3, KernelConfig(16, 64, 4, 1, 3))],
)
@pytest.mark.parametrize("kind", KINDS)
def test_products_wait_for_all_but_constants(watched: Watched, kind: str, rows: int, tile: KernelConfig) -> None:
    from model.kernels.triton import launch

    x, parts, epilogue, _ = make_case(kind, (37, 224), rows, torch.float16)
    launch.multiply(kind, x, parts, epilogue, None, tile)
    check(watched, (*parts, epilogue.bias))
    assert bool(watched.touched) == (rows == 1)  # a product of one row has its first weights on their way


def test_layer_norm_waits_for_its_input(watched: Watched) -> None:
    x, weight, bias = torch.randn(5, 200), torch.randn(200), torch.randn(200)
    norm.layer_norm(x, weight, bias, 1e-5)
    check(watched, (weight, bias))
    assert watched.touched


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
def test_copies_of_weights_are_not_read_early() -> None:
    """What had to be made contiguous is the work of the kernel just before."""
    from model.kernels.triton import launch

    weight = torch.ones(64, 32, device=DEVICE)
    assert launch.pdl_args(DEVICE, weight, None)["PDL"] == capability.supports_pdl(DEVICE)
    assert launch.pdl_args(DEVICE, weight.t(), None) == {"PDL": False}


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_in_a_graph_is_that_of_single_kernels(kind: str, rows: int) -> None:
    """Kernels that overlap, and reuse one another's memory, give what each gives on its own."""
    cases = [make_case(kind, shape, rows, torch.float16) for shape in ((4096, 512), (512, 4096))]
    (_, wide, *_), (_, narrow, *_) = cases
    x = torch.zeros(rows, 512, device=DEVICE, dtype=torch.float16)
    ones = torch.ones(512, device=DEVICE, dtype=torch.float16)

    def run(pause: Callable[[], None]) -> torch.Tensor:
        y = x
        for _ in range(LAYERS):
            h = norm.layer_norm(y, ones, ones, 1e-5)
            pause()
            m = multiply(kind, h, wide, Epilogue(gelu=True))
            pause()
            y = multiply(kind, m, narrow, Epilogue(None, False, h, 1.5))
            pause()
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

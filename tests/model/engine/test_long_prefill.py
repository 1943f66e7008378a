"""A long prompt that is prefilled by graphs of a few layers gives the logits and the KV cache of the eager decoder."""

import os

import pytest
import torch

from model import load_sat
from model.engine.config import CHAT
from model.engine.decoder import Decoder, EagerDecoder
from model.engine.layers import Layers
from model.engine.sequence import Request
from tests.conftest import relative_error
from tests.helpers.direct_runs import DirectRuns

pytest.importorskip("triton", reason="triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device, or Triton's interpreter (TRITON_INTERPRET=1)"
)
SLOT = 1
ROWS = 32  # of a prompt, padding included
ERROR = 1e-4


def prefill(decoder: Decoder, request: Request) -> tuple[torch.Tensor, int]:
    """Prefill a prompt; return its logits and the number of times that decode steps could have run in between."""
    decoder.grow(SLOT + 1, 2 * ROWS)
    decoder.reserve(SLOT, [2 * ROWS])
    steps, pauses = decoder.prefill(SLOT, [request]), 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, pauses
        pauses += 1


@pytest.mark.parametrize(("length", "layers_per_graph"), [(20, 3), (ROWS, 1)])
@torch.inference_mode()
def test_graphs_of_layers_equal_the_eager_decoder(
    length: int, layers_per_graph: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.engine import graph_decoder

    if DEVICE == "cpu":
        monkeypatch.setattr(graph_decoder, "CudaGraphs", DirectRuns)
    monkeypatch.setattr(graph_decoder, "fits_prefill_graph", lambda lengths: False)
    monkeypatch.setattr(graph_decoder, "LAYERS_PER_GRAPH", layers_per_graph)
    monkeypatch.setattr(graph_decoder, "LONG_PREFILL_STEP", ROWS)
    model = load_sat("visualglm-tiny", device=DEVICE, dtype="float32")
    layers = Layers(model.network)
    ids = torch.randint(100, 900, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    request = Request(ids, CHAT.replace(temperature=0, max_new_tokens=4), (), None, 0, False)
    eager, by_graphs = EagerDecoder(layers), graph_decoder.CudaGraphDecoder(layers)
    expected, pauses = prefill(eager, request)
    logits, same_pauses = prefill(by_graphs, request)
    assert relative_error(logits, expected.cpu()) < ERROR
    assert pauses == same_pauses == len(layers)
    assert by_graphs.cache.lengths[SLOT] == eager.cache.lengths[SLOT] == length
    [own], other = by_graphs.cache.occupied([SLOT]), eager.cache.key_values[:, :, SLOT].cpu()
    assert relative_error(own[..., :length, :], other[..., :length, :]) < ERROR

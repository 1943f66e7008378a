"""Loading needs the memory of the model plus little more than one tensor."""

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from model import VisualGLMModel
from model.checkpoint import save_hf, save_sat
from model.checkpoint.meta_init import MetaDeviceMode, build_uninitialized
from model.checkpoint.resolve import VOCABULARY_NAME, find_vocabulary
from model.hf import ChatGLMConfig
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from model.kernels.torch_ops import QuantizedLinear
from model.tensors import LazyTensors
from tests.conftest import build_model
from tests.helpers.checkpoints import TINY
from tests.helpers.preloaded import run_forked

ROOT = Path(__file__).parents[2]
LITTLE = 32 * 2**20  # bytes of tolerance for other allocations of the process
WIDTH, LAYERS = 1024, 12
# Prints the bytes of the model, of its largest tensor, and the peak increase of anonymous memory during loading.
MEASURE = """
import json, sys, threading
from argparse import Namespace
import torch
from model import VisualGLMModel, load_hf, load_sat

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def load(name):
    if sys.argv[2] == "load_hf":
        return load_hf(name, device="cpu", dtype="bfloat16", quant=4).network
    return VisualGLMModel.from_pretrained(name, args=Namespace(bf16=True, device="cpu"))[0]

warm = load_hf if sys.argv[2] == "load_hf" else load_sat
warm("visualglm-tiny", device="cpu")  # imports and one-time allocations
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
model = load(sys.argv[1])
done.set()
thread.join()
sizes = [parameter.nbytes for parameter in model.parameters()]
print(json.dumps([sum(sizes), max(sizes), max(peak, anonymous()) - before]))
"""


def measure(directory: Path, way: str) -> list[int]:
    """Return the output of MEASURE for a model and a way of loading it."""
    done = run_forked(["-c", MEASURE, str(directory), way], cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def make_config(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model of 400 MB in half precision."""
    sizes = {"hidden_size": WIDTH, "inner_hidden_size": 4 * WIDTH, "num_layers": LAYERS, "num_attention_heads": 8}
    return {**spec["sat_config"], **sizes, "vocab_size": 20_000}


def random_tensors(config: dict[str, Any], dtype: torch.dtype) -> LazyTensors:
    """Return random weights of a model, drawn lazily."""
    network = build_uninitialized(
        lambda: VisualGLMModel(Namespace(skip_init=True, **config)), torch.device("meta"), dtype
    )
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    return LazyTensors({name: lambda shape=shape: torch.randn(shape).to(dtype) for name, shape in shapes.items()})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["hf", "sat", "sat in two files", "interleaved"])
def test_loading_takes_the_model_and_one_tensor(
    kind: str, dtype: torch.dtype, golden_spec: dict[str, Any], tmp_path: Path
) -> None:
    config = make_config(golden_spec)
    if kind == "hf":
        save_hf(tmp_path, random_tensors(config, dtype), config, eos_token_id=9, dtype=None, shard_bytes=10**8)
    else:
        size = 2 if kind == "sat in two files" else 1
        save_sat(tmp_path, random_tensors(config, dtype), config, model_parallel_size=size)
    if kind == "interleaved":
        written = json.loads((tmp_path / "model_config.json").read_text())
        (tmp_path / "model_config.json").write_text(json.dumps({**written, "qkv_layout": "interleaved"}))
    whole, largest, peak = measure(tmp_path, "from_pretrained")
    assert 380e6 < whole < 420e6
    assert whole <= peak < whole + largest + LITTLE


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_hugging_face_side_quantizes_while_loading(golden_spec: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(golden_spec)
    save_hf(tmp_path, random_tensors(config, torch.float16), config, eos_token_id=9, dtype=None)
    shutil.copy(find_vocabulary("visualglm-tiny") / VOCABULARY_NAME, tmp_path)
    whole, largest, peak = measure(tmp_path, "load_hf")
    assert 120e6 < whole < 180e6
    assert peak < whole + 2 * largest + LITTLE  # the tensor in float32 during quantization


def test_building_empty_gives_the_same_network(golden_spec: dict[str, Any]) -> None:
    config = {**golden_spec["sat_config"], "vocab_size": 1200}
    ordinary = build_model({**golden_spec, "sat_config": config}).half()
    state = torch.get_rng_state()
    empty = build_uninitialized(
        lambda: VisualGLMModel(Namespace(skip_init=True, **config)), torch.device("cpu"), torch.float16
    )
    assert torch.equal(state, torch.get_rng_state())
    assert [(n, p.shape, p.dtype, p.device, p.requires_grad, vars(p)) for n, p in empty.named_parameters()] == [
        (n, p.shape, p.dtype, p.device, p.requires_grad, vars(p)) for n, p in ordinary.named_parameters()
    ]
    for (name, buffer), (_, expected) in zip(empty.named_buffers(), ordinary.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name


@pytest.mark.parametrize("bits", [8, 4])
def test_low_bit_weights_are_built_without_memory(bits: int) -> None:
    """Weights on the CPU would need host memory for a network that runs on a GPU."""
    config = ChatGLMConfig.from_pretrained(TINY)
    config.quantization_bit = bits
    with MetaDeviceMode():
        built = HfModel(config)
    layers = [module for module in built.modules() if isinstance(module, QuantizedLinear)]
    assert layers and all(layer.weight.is_meta for layer in layers)
    network = build_uninitialized(lambda: HfModel(config), torch.device("cpu"), torch.bfloat16)
    for module in network.modules():
        if isinstance(module, QuantizedLinear):
            assert (module.weight.dtype, module.weight_scale.dtype) == (torch.int8, torch.float16)


@pytest.mark.parametrize(("flag", "dtype"), [("bf16", torch.bfloat16), (None, torch.float32)])
def test_a_subclass_is_built_with_its_data(flag: str | None, dtype: torch.dtype) -> None:
    class Mine(VisualGLMModel):
        """A subclass that computes with its own tensor during construction."""

        def __init__(self, args: Any, **kwargs: Any) -> None:
            super().__init__(args, **kwargs)
            self.scale = float(torch.ones(3).sum())

    given = Namespace(device="cpu", **({flag: True} if flag else {}))
    model, _ = Mine.from_pretrained("visualglm-tiny", args=given)
    assert model.scale == 3.0
    assert model.dtype == dtype
    plain, _ = VisualGLMModel.from_pretrained("visualglm-tiny", args=Namespace(**vars(given)))
    assert plain.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))

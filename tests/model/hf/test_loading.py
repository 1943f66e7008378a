"""`load_hf` loads the same network from a Hugging Face directory as transformers, and reports every mismatch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import CheckpointError, SettingError, load_hf
from model.checkpoint.convert import convert
from model.checkpoint.layout import is_language_qkv, split_qkv
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.helpers.checkpoints import TINY

Tensors = dict[str, torch.Tensor]
BIAS = "transformer.layers.0.mlp.dense_h_to_4h.bias"
pytestmark = pytest.mark.usefixtures("offline")


def rewrite(directory: Path, change: Callable[[Tensors], object]) -> Path:
    """Save visualglm-tiny with the given tensors."""
    shutil.copytree(TINY, directory)
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def read_plainly(directory: Path) -> HfModel:
    """Load a directory with transformers."""
    return HfModel.from_pretrained(directory, dtype=torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(BIAS), f"missing: {BIAS}"),
        (lambda tensors: tensors.update(lm_head_bias=torch.zeros(3)), "unknown: lm_head_bias"),
        (lambda tensors: tensors.update({BIAS: torch.zeros(3)}), rf"{BIAS} has shape \[3\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[Tensors], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_hf(rewrite(tmp_path / "changed", change), device="cpu")


def test_split_rows_are_detected(tmp_path: Path) -> None:
    def reorder(tensors: Tensors) -> None:
        tensors.update({name: split_qkv(tensors[name], 8) for name in tensors if is_language_qkv(name)})

    directory = rewrite(tmp_path / "changed", reorder)
    with pytest.raises(CheckpointError, match="qkv_layout='split'"):
        load_hf(directory, device="cpu")
    settled = load_hf(directory, device="cpu", dtype="float32", qkv_layout="split").network.state_dict()
    expected = read_plainly(TINY).state_dict()
    assert all(torch.equal(settled[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["as it is", "in shards", "pickled", "8 bits", "4 bits"])
def test_the_network_equals_that_of_transformers(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(TINY, directory)
    if kind == "pickled":
        tensors = load_file(directory / "model.safetensors")
        tensors["transformer.layers.0.attention.rotary_emb.inv_freq"] = torch.zeros(8)  # as in the published files
        torch.save(tensors, directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
    elif kind != "as it is":
        network = read_plainly(directory)
        (directory / "model.safetensors").unlink()
        network = network.quantize(int(kind[0])) if "bits" in kind else network
        network.save_pretrained(directory, **({"max_shard_size": "5MB"} if kind == "in shards" else {}))
    expected, progress = read_plainly(directory), []
    loaded = load_hf(directory, device="cpu", dtype="float32", progress=lambda *counts: progress.append(counts))
    network, states = loaded.network, expected.state_dict()
    assert network.state_dict().keys() == states.keys()
    for name, tensor in network.state_dict().items():
        assert (tensor.dtype, torch.equal(tensor, states[name])) == (states[name].dtype, True), name
    assert network.config.to_dict() == expected.config.to_dict()
    assert network.generation_config.to_dict() == expected.generation_config.to_dict()
    assert [done for done, _ in progress] == list(range(1, len(progress) + 1))
    assert progress[-1][0] == progress[-1][1] >= len(states)
    assert not network.training


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("format", ["hf", "sat"])
def test_quantizing_while_loading_equals_quantizing_afterwards(
    bits: int, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = TINY
    if format == "sat":
        convert(TINY, directory := tmp_path / "sat", "sat")
    expected = load_hf(directory, device="cpu", dtype="float16").network.quantize(bits)
    monkeypatch.delattr(HfModel, "quantize")  # it would need all unquantized weights in memory
    network = load_hf(directory, device="cpu", dtype="float16", quant=bits).network
    assert network.config.to_dict() == expected.config.to_dict()
    states = expected.state_dict()
    assert network.state_dict().keys() == states.keys()
    for name, tensor in network.state_dict().items():
        assert (tensor.dtype, torch.equal(tensor, states[name])) == (states[name].dtype, True), name


def test_quantized_weights_are_not_quantized_again(tmp_path: Path) -> None:
    expected = read_plainly(TINY).quantize(8)
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    expected.save_pretrained(tmp_path / "model")
    for quant in (8, None):
        network = load_hf(tmp_path / "model", device="cpu", dtype="float32", quant=quant).network
        assert network.config.quantization_bit == 8
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(SettingError, match="8 bits"):
        load_hf(tmp_path / "model", device="cpu", quant=4)


def test_a_generation_config_counts(tmp_path: Path) -> None:
    directory = rewrite(tmp_path / "model", lambda tensors: tensors)
    written = json.loads((directory / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(json.dumps({**written, "top_k": 7}))
    assert load_hf(directory, device="cpu").network.generation_config.top_k == 7

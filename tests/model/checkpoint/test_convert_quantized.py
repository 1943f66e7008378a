"""`convert --quant` writes what quantizing while loading gives, bit by bit, in both formats."""

import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model import CheckpointError, SettingError, VisualGLMModel, load_hf, load_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.convert import convert, main
from model.engine import GenerationConfig
from model.prompt import Conversation
from model.quantization.quantize import QuantizedEmbedding, quantized_layers
from tests.conftest import relative_error
from tests.helpers.checkpoints import TINY

pytestmark = pytest.mark.usefixtures("offline")
BITS = [8, 4]
FORMATS = ["sat", "hf"]
LOADERS: dict[str, Callable[..., Any]] = {"sat": load_sat, "hf": load_hf}
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0, max_new_tokens=24)
ALL_PARTS = {"quant_vision": True, "quant_embeddings": True}


def states(model: Any) -> dict[str, torch.Tensor]:
    """Return a chat model's state dict."""
    return model.network.state_dict()  # type: ignore[no-any-return]


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Assert that two state dicts have the same names, dtypes and bits."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (actual[name].dtype, torch.equal(actual[name], tensor)) == (tensor.dtype, True), name


def forbid_quantizing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loaders fail if they quantize a weight."""

    def fail(*args: Any) -> None:
        raise AssertionError("a weight was quantized again")

    monkeypatch.setattr("model.checkpoint.quantize_tensors.quantize_weight", fail)
    monkeypatch.setattr("model.hf_loading.quantize_per_channel", fail)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("to", FORMATS)
def test_weights_and_answers_are_those_of_quantizing_while_loading(
    to: str, bits: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(TINY, tmp_path / "model", to, quant=bits, dtype=getattr(torch, dtype) if to == "hf" else None)
    load = LOADERS[to]
    expected = load(TINY, device="cpu", dtype=dtype, quant=bits)
    forbid_quantizing(monkeypatch)
    for quant in (None, bits):
        loaded = load(tmp_path / "model", device="cpu", dtype=dtype, quant=quant)
        assert_same(states(loaded), states(expected))
    asked = [(Conversation(None), "你好"), (Conversation(None), "What is in the image?")]
    assert loaded.answer_batch(asked, GREEDY) == expected.answer_batch(asked, GREEDY)


@pytest.mark.parametrize("bits", BITS)
def test_stored_weights_are_loaded_without_dequantizing_them(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for to in FORMATS:
        convert(TINY, tmp_path / to, to, quant=bits)

    def fail(*args: Any) -> None:
        raise AssertionError("a weight was dequantized")

    monkeypatch.setattr("model.quantization.dequantize.dequantize", fail)
    for to in FORMATS:
        load_sat(tmp_path / to, device="cpu")
    load_hf(tmp_path / "hf", device="cpu")


@pytest.mark.parametrize("bits", BITS)
def test_low_bit_weights_that_contradict_the_configuration_are_refused(bits: int, tmp_path: Path) -> None:
    convert(TINY, tmp_path / "model", "sat", quant=bits)
    file = tmp_path / "model" / "model_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "qkv_layout": "interleaved"}))
    with pytest.raises(CheckpointError, match=r"weights look\s+split"):
        load_sat(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("bits", BITS)
def test_the_image_encoder_and_the_embeddings_are_quantized_when_asked(bits: int, tmp_path: Path) -> None:
    assert (
        main([str(TINY), str(tmp_path / "model"), "--to", "sat", "--quant", str(bits), *map("--{}".format, ALL_PARTS)])
        == 0
    )
    expected = load_sat(TINY, device="cpu", quant=bits, **ALL_PARTS)
    for options in ({}, {"quant": bits}, {"quant": bits, **ALL_PARTS}):
        assert_same(states(load_sat(tmp_path / "model", device="cpu", **options)), states(expected))
    assert isinstance(expected.network.transformer.word_embeddings, QuantizedEmbedding)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("to", FORMATS)
def test_the_configuration_names_the_bits_and_the_files_are_small(to: str, bits: int, tmp_path: Path) -> None:
    convert(TINY, tmp_path / "whole", to)
    convert(TINY, tmp_path / "model", to, quant=bits)
    name = "model_config.json" if to == "sat" else "config.json"
    config, whole = (json.loads((tmp_path / folder / name).read_text()) for folder in ("model", "whole"))
    assert config.pop("quantization_bit") == bits
    assert config == whole
    assert open_checkpoint(tmp_path / "model").bits == bits
    assert open_checkpoint(tmp_path / "model").size < open_checkpoint(tmp_path / "whole").size


@pytest.mark.parametrize("to", FORMATS)
def test_other_bits_are_refused(to: str, tmp_path: Path) -> None:
    convert(TINY, tmp_path / "model", to, quant=8)
    with pytest.raises(SettingError, match="8 bits already"):
        LOADERS[to](tmp_path / "model", device="cpu", quant=4)


def test_each_side_loads_the_other_format_but_quantizes_it_no_further(tmp_path: Path) -> None:
    convert(TINY, tmp_path / "sat", "sat", quant=4)
    convert(TINY, tmp_path / "hf", "hf", quant=4)
    assert load_hf(tmp_path / "sat", device="cpu").network.config.quantization_bit == 0
    with pytest.raises(SettingError, match=r"4 bits already.*load_sat"):
        load_hf(tmp_path / "sat", device="cpu", quant=4)
    kept = states(load_sat(tmp_path / "hf", device="cpu"))
    name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
    assert torch.equal(kept[name], states(load_hf(tmp_path / "hf", device="cpu"))[name])


@pytest.mark.parametrize("to", FORMATS)
def test_a_quantized_source_is_not_quantized_again_but_dequantized(to: str, tmp_path: Path) -> None:
    convert(TINY, tmp_path / "model", to, quant=8)
    for bits in BITS:
        with pytest.raises(SettingError, match="8 bits already"):
            convert(tmp_path / "model", tmp_path / "again", to, quant=bits)
    assert not (tmp_path / "again").exists()
    for other in FORMATS:
        convert(tmp_path / "model", tmp_path / other, other)
        assert open_checkpoint(tmp_path / other).bits == 0
        plain = load_sat(tmp_path / other, device="cpu").network
        assert not quantized_layers(plain)
        name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
        expected = load_sat(TINY, device="cpu").network.get_parameter(name).detach()
        assert relative_error(plain.get_parameter(name).detach(), expected) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "hf", "quant": 8, "quant_vision": True}, "quant_vision.*sat"),
        ({"to": "hf", "quant": 8, "quant_embeddings": True}, "quant_embeddings.*sat"),
        ({"to": "sat", "quant_vision": True}, "quant_vision needs quant"),
        ({"to": "sat", "quant": 8, "model_parallel_size": 2}, "one file"),
        ({"to": "sat", "quant": 3}, "8 or 4 bits"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=words):
        convert(TINY, tmp_path / "model", **options)
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize("to", FORMATS)
def test_too_little_disk_space_is_an_error_before_anything_is_written(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(TINY, tmp_path / "model", to, quant=4)
    size = open_checkpoint(tmp_path / "model").size
    usage = type("Usage", (), {"free": int(0.8 * size)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="free"):
        convert(TINY, tmp_path / "other", to, quant=4)
    usage.free = int(1.2 * size)
    convert(TINY, tmp_path / "other", to, quant=4)
    usage.free = int(1.2 * size)  # too little for the dequantized weights
    with pytest.raises(CheckpointError, match="free"):
        convert(tmp_path / "model", tmp_path / "whole", to)
    assert not list(tmp_path.glob("whole*"))


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("model.checkpoint.quantize_tensors.quantize_weight", fail)
    with pytest.raises(CheckpointError, match="full"):
        convert(TINY, tmp_path / "model", "sat", quant=4)
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize("to", FORMATS)
def test_the_networks_class_loads_dequantized_weights(to: str, tmp_path: Path) -> None:
    convert(TINY, tmp_path / "model", to, quant=8)
    network, _ = VisualGLMModel.from_pretrained(str(tmp_path / "model"), args=Namespace(device="cpu"))
    assert not quantized_layers(network)

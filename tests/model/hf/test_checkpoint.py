"""Hugging Face checkpoints: published names, shards of both kinds, quantized weights, error messages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import CheckpointError
from model.checkpoint import open_checkpoint
from model.checkpoint.layout import to_hf_name, to_sat_name
from model.checkpoint.load import load_tensors
from model.kernels.torch_ops import unpack_int4
from tests.conftest import GOLDENS, build_model, relative_error
from tests.goldens import golden_weights
from tests.helpers.checkpoints import Small, differing, read_model, write_hf

pytestmark = pytest.mark.usefixtures("offline")
WEIGHTS = "model.safetensors"
QUANTISED = ("query_key_value.weight", "attention.dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")


@pytest.fixture
def directory(small: Small, tmp_path: Path) -> Path:
    """The small model in the Hugging Face format, in one safetensors file."""
    return write_hf(tmp_path / "hf", *small)


@pytest.fixture
def golden_directory(golden_spec: Any, tmp_path: Path) -> Path:
    """The goldens' weights, drawn by their HF names, as a checkpoint in one safetensors file."""
    directory = tmp_path / "golden"
    directory.mkdir()
    tensors = {
        name: torch.from_numpy(golden_weights.draw(golden_spec["seed"], name, tuple(shape)))
        for name, shape in golden_spec["hf_parameters"].items()
    }
    save_file(tensors, directory / WEIGHTS)
    (directory / "config.json").write_text(json.dumps(golden_spec["hf_config"]), encoding="utf-8")
    return directory


def test_every_published_name_maps_to_sat_and_back() -> None:
    lines = (GOLDENS / "map_hf_to_sat.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lines) == 1039
    for hf_name, sat_name, _, transform in (line.split("\t") for line in lines):
        if transform == "drop/recompute":
            assert to_sat_name(hf_name) is None
        else:
            assert to_sat_name(hf_name) == sat_name
            assert to_hf_name(sat_name) == hf_name


@pytest.mark.parametrize("name", ["zh_image", "en_image", "zh_text"])
def test_weights_give_the_originals_numbers(
    name: str, golden_directory: Path, golden_spec: Any, golden_pixels: torch.Tensor, golden_numbers: Any
) -> None:
    model, args = read_model(golden_directory)
    assert args.num_layers == golden_spec["hf_config"]["num_layers"]
    case = golden_spec["cases"][name]
    ids = torch.tensor([case["input_ids"] + case["continuation"]])
    image_inputs = {"image": golden_pixels[[case["image_index"] or 0]], "pre_image": case["image_start"]}
    with torch.no_grad():
        logits = model(ids, **(image_inputs if case["image"] else {}))[0][0]
    expected = golden_numbers[f"hf/{name}/logits"]
    assert relative_error(logits[:, :: golden_spec["vocab_stride"]], expected) < 1e-5


def test_progress_counts_every_tensor(small: Small, golden_spec: Any, directory: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = build_model({**golden_spec, "sat_config": small[1]})
    load_tensors(model, open_checkpoint(directory), lambda *step: seen.append(step))
    assert seen[-1] == (len(list(model.named_parameters())),) * 2


def shard_as_bin(directory: Path) -> None:
    """Convert the weights to three pickled shards with an index, as published."""
    tensors = load_file(directory / WEIGHTS)
    tensors["transformer.layers.0.attention.rotary_emb.inv_freq"] = torch.zeros(4)  # as in the published files
    names = list(tensors)
    weight_map = {}
    for number in range(3):
        file = f"pytorch_model-{number + 1:05d}-of-00003.bin"
        torch.save({name: tensors[name] for name in names[number::3]}, directory / file)
        weight_map.update(dict.fromkeys(names[number::3], file))
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def save_as_bin(directory: Path) -> None:
    """Convert the weights to one pickled file."""
    torch.save(load_file(directory / WEIGHTS), directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()


def save_before_1_6(directory: Path) -> None:
    """Convert the weights to one file in the format of torch.save < 1.6."""
    tensors = load_file(directory / WEIGHTS)
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (directory / WEIGHTS).unlink()


@pytest.mark.parametrize("rewrite", [shard_as_bin, save_as_bin, save_before_1_6])
def test_pickled_weights_load(rewrite: Callable[[Path], None], directory: Path, small: Small) -> None:
    rewrite(directory)
    assert differing(read_model(directory)[0], small[0].state_dict()) == []


def test_safetensors_in_shards_load(small: Small, tmp_path: Path) -> None:
    directory = write_hf(tmp_path / "shards", *small, shard_bytes=100_000)
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    assert differing(read_model(directory)[0], small[0].state_dict()) == []
    assert not list(directory.glob("*.part"))


def quantize(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a matrix as the original does; return int8 [out, in * bits / 8] and the scales of the rows."""
    largest = 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(1) / largest).half()
    full = (weight / scale.float()[:, None]).round().to(torch.int8)
    if bits == 4:
        full = (full[:, 0::2] << 4) | (full[:, 1::2] & 15)
    return full, scale


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_are_dequantized(bits: int, directory: Path, small: Small) -> None:
    tensors = load_file(directory / WEIGHTS)
    for name in [name for name in tensors if name.startswith("transformer.") and name.endswith(QUANTISED)]:
        tensors[name], tensors[f"{name}_scale"] = quantize(tensors[name], bits)
    save_file(tensors, directory / WEIGHTS)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "quantization_bit": bits}))
    model, _ = read_model(directory)
    expected = small[0].state_dict()
    changed = differing(model, expected)
    assert len(changed) == 4 * config["num_layers"]
    for name in changed:
        error = (model.get_parameter(name) - expected[name]).abs().amax(1)
        step = expected[name].abs().amax(1) / (2 ** (bits - 1) - 1)
        assert (error <= 0.51 * step + 1e-3 * expected[name].abs().amax(1)).all(), name


def test_the_even_column_is_in_the_high_half_and_halves_have_signs() -> None:
    packed = torch.tensor([[0x1F, 0x70, -128 + 0x07]], dtype=torch.int8)
    assert unpack_int4(packed).tolist() == [[1, -1, 7, 0, -8, 7]]


def test_quantized_weights_without_their_bits_are_refused(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    name = "transformer.layers.0.attention.dense.weight"
    tensors[name], tensors[f"{name}_scale"] = quantize(tensors[name], 8)
    save_file(tensors, directory / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"quantization_bit.* 0"):
        read_model(directory)


def put(name: str, content: str | bytes | None) -> Callable[[Path], None]:
    """Return a function that replaces a file's content, or removes the file."""

    def damage(directory: Path) -> None:
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def truncate(directory: Path) -> None:
    content = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(content[:-1000])


def truncate_in_header(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:100])


def remove_shard(directory: Path) -> None:
    shard_as_bin(directory)
    (directory / "pytorch_model-00002-of-00003.bin").unlink()


def truncate_shard(directory: Path) -> None:
    shard_as_bin(directory)
    file = directory / "pytorch_model-00002-of-00003.bin"
    file.write_bytes(file.read_bytes()[:-100])


def point_shard(directory: Path) -> None:
    shard_as_bin(directory)
    (directory / "pytorch_model-00003-of-00003.bin").write_text("version https://git-lfs.github.com/spec/v1\n")


def repeat_shard(directory: Path) -> None:
    shard_as_bin(directory)
    first = (directory / "pytorch_model-00001-of-00003.bin").read_bytes()
    (directory / "pytorch_model-00002-of-00003.bin").write_bytes(first)


def remove_index(directory: Path) -> None:
    shard_as_bin(directory)
    (directory / "pytorch_model.bin.index.json").unlink()


def break_link(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to("../blobs/gone")


def call_it_safetensors(directory: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, directory / WEIGHTS)


def set_bits(bits: object) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "quantization_bit": bits}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (put("config.json", "not json"), "cannot be read as JSON"),
        (put("config.json", "[]"), "a JSON object"),
        (put("config.json", '{"model_type": "llama"}'), "not a VisualGLM configuration.*eva_config.*'llama'"),
        (put("config.json", "<html>Sign in</html>"), "is a web page"),
        (put(WEIGHTS, None), "no weights"),
        (put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git-LFS pointer.*git lfs pull"),
        (put(WEIGHTS, "\n<!DOCTYPE html><html></html>"), "is a web page"),
        (put(WEIGHTS, ""), "it is empty"),
        (truncate, r"truncated, with \d+ of \d+ bytes"),
        (truncate_in_header, "truncated to 100 bytes"),
        (remove_shard, r"pytorch_model-00002-of-00003\.bin, which is missing"),
        (truncate_shard, r"pytorch_model-00002-of-00003\.bin .*truncated"),
        (point_shard, r"pytorch_model-00003-of-00003\.bin .*Git-LFS pointer"),
        (put("model.safetensors.index.json", "{}"), "has no weight_map"),
        (put("model.safetensors.index.json", '{"weight_map": {"a": 3}}'), "should name weight files.* 3"),
        (put("model.safetensors.index.json", '{"weight_map": {"a": "../b"}}'), r"weight files.* '\.\./b'"),
        (put(WEIGHTS, "Entry not found"), "not contain safetensors"),
        (repeat_shard, r"index, .*-00002-of-00003\.bin contains .* different models"),
        (remove_index, "not the index of all shards"),
        (break_link, r"is a link to \.\./blobs/gone, which does not exist"),
        (call_it_safetensors, r"written by torch\.save"),
        (set_bits("x"), "quantization_bit is 'x'"),
    ],
)
def test_broken_directories_are_explained(damage: Callable[[Path], None], message: str, directory: Path) -> None:
    damage(directory)
    with pytest.raises(CheckpointError, match=message):
        read_model(directory)


def test_a_configuration_without_a_padding_token_has_the_originals(small: Small, directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    del config["pad_token_id"]
    (directory / "config.json").write_text(json.dumps(config))
    model, args = read_model(directory)
    assert args.pad_token_id == 3
    assert differing(model, small[0].state_dict()) == []


def test_missing_unknown_and_misshapen_tensors_are_named(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    weight = tensors.pop("transformer.final_layernorm.weight")
    save_file({**tensors, "transformer.extra": weight}, directory / WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"missing: transformer\.final_layernorm\.weight\nunknown: transformer\.extra"
    ):
        read_model(directory)
    save_file({**tensors, "transformer.final_layernorm.weight": torch.zeros(3)}, directory / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"final_layernorm\.weight.*\[3\]"):
        read_model(directory)

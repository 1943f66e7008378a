"""A model directory is untrusted input: entries are checked before they cost resources, with explained errors."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import model.hf_loading
import model.loading
from model import CheckpointError, VisualGLMError, load_hf, load_sat
from model.checkpoint import open_checkpoint, save_sat
from model.checkpoint.convert import convert
from model.checkpoint.resolve import VOCABULARY_NAME, find_vocabulary
from model.hf import ChatGLMConfig
from tests.helpers.checkpoints import QKV, RANK_0, TINY
from tests.helpers.web_server import forbidden

pytestmark = pytest.mark.usefixtures("offline")
NESTED = '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"
LOADERS = [load_sat, load_hf]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A modifiable copy of the small model in the Hugging Face format."""
    shutil.copytree(TINY, tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A modifiable copy of the small model in the SAT format."""
    tiny = open_checkpoint(TINY)
    save_sat(tmp_path / "trained", dict(tiny.tensors()), tiny.config)
    shutil.copy(TINY / VOCABULARY_NAME, tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture(params=["published", "trained"])
def directory(request: pytest.FixtureRequest) -> Path:
    """A modifiable copy of the small model in each format."""
    found: Path = request.getfixturevalue(request.param)
    return found


def config_of(directory: Path) -> Path:
    """Return the configuration file of either format."""
    return next(directory / name for name in ("config.json", "model_config.json") if (directory / name).is_file())


def change(directory: Path, *keys: str, value: Any) -> None:
    """Set an entry of the configuration; its sections have the same names here for both formats."""
    file = config_of(directory)
    config = json.loads(file.read_text())
    *parts, last = keys
    section = config
    for part in parts:
        section = section[f"{part}_config" if file.name == "config.json" else f"{part}_args"]
    section[last] = value
    file.write_text(json.dumps(config))


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a network is built."""
    for module in (model.loading, model.hf_loading):
        monkeypatch.setattr(module, "build_uninitialized", forbidden)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "generation_config.json", "tokenizer_config.json"]
)
def test_deeply_nested_files_of_a_published_model_are_refused(name: str, load: Any, published: Path) -> None:
    (published / name).write_text(NESTED)
    if name == "generation_config.json" and load is load_sat:
        convert_to = published.parent / "converted"
        with pytest.raises(CheckpointError, match="nested"):
            convert(published, convert_to, "hf")
    else:
        with pytest.raises(VisualGLMError, match="nested"):
            load(published, device="cpu")


@pytest.mark.parametrize("load", LOADERS)
def test_a_deeply_nested_sat_configuration_is_refused(load: Any, trained: Path) -> None:
    (trained / "model_config.json").write_text(NESTED)
    with pytest.raises(CheckpointError, match="nested"):
        load(trained, device="cpu")


def test_a_huge_configuration_file_is_not_read(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(published / "config.json", 10**12)  # a sparse file
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(CheckpointError, match="more than"):
        open_checkpoint(published)


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize(
    "keys",
    [
        ("num_layers",),
        ("hidden_size",),
        ("num_attention_heads",),
        ("vocab_size",),
        ("eva", "num_layers"),
        ("qformer", "hidden_size"),
        ("eva", "model_parallel_size"),
    ],
)
def test_absurd_sizes_are_refused(keys: tuple[str, ...], directory: Path) -> None:
    for value in (10**9, 10**18, 2**63, -1, 0, True, 1e6, "4", [], {}):
        change(directory, *keys, value=value)
        for load in LOADERS:
            with pytest.raises(CheckpointError, match=keys[-1]):
                load(directory, device="cpu")


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("inner_hidden_size",), 10**12),
        (("image_length",), 10**12),
        (("image_length",), 33),
        (("max_sequence_length",), 10**12),
        (("layernorm_epsilon",), "small"),
        (("eva", "image_size"), [10**6, 10**6]),
        (("eva", "image_size"), [448, 448]),
        (("eva", "image_size"), 224),
        (("eva", "patch_size"), 10**6),
        (("eva", "patch_size"), 1),
        (("eva", "in_channels"), 10**6),
        (("eva", "max_sequence_length"), 10**12),
        (("eva", "pre_len"), 10**12),
        (("qformer", "cross_attn_hidden_size"), 10**12),
        (("qformer", "is_decoder"), [True]),
        (("qformer", "is_decoder"), True),
        (("qformer", "cross_attn_hidden_size"), None),
        (("eva", "patch_size"), 0),
        (("eva", "in_channels"), []),
        (("eva", "post_len"), {}),
        (("bos_token_id",), "x"),
        (("pad_token_id",), -1),
        (("pre_seq_len",), 10**12),
        (("pre_seq_len",), "x"),
    ],
)
def test_other_absurd_entries_are_refused(keys: tuple[str, ...], value: Any, directory: Path) -> None:
    change(directory, *keys, value=value)
    for load in LOADERS:
        with pytest.raises(CheckpointError, match=r"config\.json"):
            load(directory, device="cpu")


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize("part", ["eva", "qformer"])
def test_a_component_without_sizes_is_rejected(part: str, directory: Path) -> None:
    file = config_of(directory)
    name = f"{part}_config" if file.name == "config.json" else f"{part}_args"
    config = json.loads(file.read_text())
    for key in ("num_layers", "hidden_size", "num_attention_heads"):
        lacking = {other: value for other, value in config[name].items() if other != key}
        for sizes in (lacking, {}, [], None, 5):
            file.write_text(json.dumps({**config, name: sizes}))
            for load in LOADERS:
                with pytest.raises(CheckpointError, match=part):
                    load(directory, device="cpu")


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize(
    "changes",
    [
        {("num_layers",): 1000},
        {("hidden_size",): 65_536, ("inner_hidden_size",): 4},
        {("inner_hidden_size",): 2**18},
        {("vocab_size",): 2**20},
        {("eva", "hidden_size"): 32_768},
        {("qformer", "num_layers"): 1000, ("qformer", "is_decoder"): [True] * 1000},
    ],
)
def test_a_model_that_the_files_cannot_hold_is_not_built(changes: dict[tuple[str, ...], Any], directory: Path) -> None:
    for keys, value in changes.items():
        change(directory, *keys, value=value)
    for load in LOADERS:
        with pytest.raises(CheckpointError, match="different models"):
            load(directory, device="cpu")


def test_messages_quote_little_of_a_configuration(directory: Path) -> None:
    change(directory, "num_layers", value="x" * 10**6)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["mp_rank_999999999_model_states.pt", "mp_rank_256_model_states.pt"])
def test_a_rank_beyond_all_models_is_refused(name: str, trained: Path) -> None:
    shutil.copy(trained / "1" / RANK_0, trained / "1" / name)
    with pytest.raises(CheckpointError, match=f"{name}.*256"):
        open_checkpoint(trained)


@pytest.mark.parametrize("value", [10**9, 257, 2**63])
def test_an_absurd_number_of_ranks_is_refused(value: int, trained: Path) -> None:
    change(trained, "model_parallel_size", value=value)
    with pytest.raises(CheckpointError, match="model_parallel_size"):
        open_checkpoint(trained)


def name_base(run: Path, base: object) -> None:
    change(run, "base_model", value=base)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_cyclic_bases_are_rejected(length: int, load: Any, trained: Path, tmp_path: Path) -> None:
    runs = [trained, *(tmp_path / f"copy {number}" for number in range(1, length))]
    for run in runs[1:]:
        shutil.copytree(trained, run)
    (tmp_path / "link").symlink_to(trained)
    for run, base in zip(runs, [*runs[1:], tmp_path / "link"], strict=True):
        name_base(run, str(base))
    with pytest.raises(CheckpointError, match="cyclic"):
        load(trained, device="cpu")
    assert find_vocabulary(trained) == trained
    for run in runs:
        (run / VOCABULARY_NAME).unlink()
    with pytest.raises(VisualGLMError):
        find_vocabulary(trained)


def test_a_chain_of_bases_is_bounded_and_a_short_one_is_read(trained: Path, tmp_path: Path) -> None:
    runs = [tmp_path / str(number) for number in range(12)]
    for run in runs:
        shutil.copytree(trained, run)
    for run, base in zip(runs, [*runs[1:], TINY], strict=True):
        name_base(run, str(base))
    with pytest.raises(CheckpointError, match=" 8"):
        open_checkpoint(runs[0])
    chained = open_checkpoint(runs[-3])
    assert torch.equal(dict(chained.tensors())[QKV], dict(open_checkpoint(TINY).tensors())[QKV])


@pytest.mark.parametrize("base", [5, [], "", {"a": 1}, True])
def test_a_base_that_is_not_a_name_is_rejected(base: object, trained: Path) -> None:
    name_base(trained, base)
    with pytest.raises(CheckpointError, match="base_model"):
        open_checkpoint(trained)


KERNELS = ["kernels-community/attention", "someone/else:attention", "flash_attention_2", "paged|x/y", {"": "a/b"}]
KEYS = ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", KERNELS)
def test_a_configuration_cannot_ask_for_kernels(key: str, value: Any, published: Path) -> None:
    from transformers import AutoModel

    change(published, key, value=value)
    with pytest.raises(CheckpointError, match=f"{key}.*kernels"):
        load_hf(published, device="cpu")
    with pytest.raises(ValueError, match="kernels"):
        AutoModel.from_pretrained(published)


@pytest.mark.parametrize("key", KEYS[:2])
@pytest.mark.parametrize("value", ["sdpa", "eager", None])
def test_the_attention_that_every_model_has_may_be_named(key: str, value: str | None) -> None:
    assert ChatGLMConfig(**{key: value}).num_layers == 28


def write_double(directory: Path) -> None:
    """Convert the weights of a model directory to double precision."""
    if (directory / "config.json").is_file():
        tensors = load_file(directory / "model.safetensors")
        save_file({name: tensor.double() for name, tensor in tensors.items()}, directory / "model.safetensors")
    else:
        module = torch.load(directory / "1" / RANK_0)["module"]
        double = {name: tensor.double() for name, tensor in module.items()}
        torch.save({"module": double}, directory / "1" / RANK_0)


@pytest.mark.parametrize("to", ["sat", "hf"])
def test_double_precision_is_loaded_and_converted(to: str, directory: Path, tmp_path: Path) -> None:
    expected = dict(open_checkpoint(TINY).tensors())
    write_double(directory)
    for load in LOADERS:
        network = load(directory, device="cpu", dtype="float32").network
        name = "transformer.layers.1.attention.dense.weight"
        assert torch.equal(network.state_dict()[name], expected[name].float())
    convert(directory, tmp_path / "whole", to)
    convert(directory, tmp_path / "half", to, dtype=torch.float16)
    for folder, dtype in (("whole", torch.float64), ("half", torch.float16)):
        written = dict(open_checkpoint(tmp_path / folder).tensors())
        assert {tensor.dtype for tensor in written.values()} == {dtype}
        assert all(torch.equal(tensor, expected[name].to(dtype)) for name, tensor in written.items())


def without_a_row(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[1:].clone()


def flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()


def one_number(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()[0].clone()


def nothing(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:0].clone()


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("spoil", [without_a_row, flat, one_number, nothing])
@pytest.mark.parametrize("part", ["1.attention.query_key_value.weight", "0.mlp.dense_h_to_4h.weight"])
def test_tensors_of_odd_shapes_are_refused(
    part: str, spoil: Callable[[torch.Tensor], torch.Tensor], load: Any, directory: Path
) -> None:
    name = f"transformer.layers.{part}"
    if (directory / "config.json").is_file():
        tensors = load_file(directory / "model.safetensors")
        save_file({**tensors, name: spoil(tensors[name])}, directory / "model.safetensors")
    else:
        module = torch.load(directory / "1" / RANK_0)["module"]
        torch.save({"module": {**module, name: spoil(module[name])}}, directory / "1" / RANK_0)
    with pytest.raises(CheckpointError, match=r"query_key_value|dense_h_to_4h"):
        load(directory, device="cpu")


def odd_tensors() -> Iterator[torch.Tensor]:
    """Yield tensors whose shapes have far more elements than their storage."""
    yield torch.zeros(1).expand(10**9, 256)
    yield torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**9, 256), check_invariants=True
    )
    yield torch.empty(10**9, 256, device="meta")


@pytest.mark.parametrize("tensor", list(odd_tensors()), ids=["repeated", "sparse", "meta"])
@pytest.mark.parametrize("name", [QKV, "transformer.word_embeddings.weight"])
def test_a_tensor_larger_than_its_storage_is_rejected(name: str, tensor: torch.Tensor, trained: Path) -> None:
    module = torch.load(trained / "1" / RANK_0)["module"]
    torch.save({"module": {**module, name: tensor}}, trained / "1" / RANK_0)
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(trained)

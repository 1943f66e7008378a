"""A name finds its files; tensors of either format arrive under SAT's names, in SAT's order; faults are named."""

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from model import CheckpointError, TokenizerError, VisualGLMModel, load_sat, load_tokenizer
from model.checkpoint import open_checkpoint, resolve
from model.checkpoint.convert import save_hf, to_hf_name
from model.checkpoint.hf import to_sat_name
from model.checkpoint.load import load_tensors
from model.checkpoint.qkv import interleave_qkv, split_qkv
from model.checkpoint.resolve import EMBEDDED
from tests.conftest import GOLDENS, build_model, relative_error
from tests.goldens import golden_weights

TINY = EMBEDDED / "visualglm-tiny"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test reaches a hub, or models that lie on this machine."""

    def unreachable(*args: Any, local_files_only: bool = False, **kwargs: Any) -> str:
        if local_files_only:
            return snapshot_download(*args, local_files_only=True, **kwargs)
        raise OSError("no connection")

    snapshot_download = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.chdir(tmp_path)
    yield


def read_model(name: str | Path) -> tuple[VisualGLMModel, Namespace]:
    """Load a model onto the CPU, whatever the machine has."""
    return VisualGLMModel.from_pretrained(str(name), args=Namespace(device="cpu"))


def mapping() -> list[tuple[str, str, str]]:
    """Return (HF name, SAT name, transform) of every published tensor."""
    lines = (GOLDENS / "map_hf_to_sat.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(row[0], row[1], row[3]) for row in (line.split("\t") for line in lines)]


def test_every_published_name_maps_to_sat_and_back() -> None:
    rows = mapping()
    assert len(rows) == 1039
    for hf_name, sat_name, transform in rows:
        if transform == "drop/recompute":
            assert to_sat_name(hf_name) is None
        else:
            assert to_sat_name(hf_name) == sat_name
            assert to_hf_name(sat_name) == hf_name


def test_row_orders_are_inverse_and_as_published() -> None:
    heads, head_dim = 3, 2
    split = torch.arange(3 * heads * head_dim).view(3, heads, head_dim)  # q, k, v, each by head
    interleaved = torch.stack([split[part, head] for head in range(heads) for part in range(3)])
    assert torch.equal(split_qkv(interleaved.flatten(), heads), split.flatten())
    assert torch.equal(interleave_qkv(split.flatten(), heads), interleaved.flatten())


@pytest.fixture
def hf_directory(golden_spec: Any, tmp_path: Path) -> Path:
    """The goldens' HF weights as a checkpoint of the published format, in one safetensors file."""
    directory = tmp_path / "hf"
    directory.mkdir()
    tensors = {
        name: torch.from_numpy(golden_weights.draw(golden_spec["seed"], name, tuple(shape)))
        for name, shape in golden_spec["hf_parameters"].items()
    }
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(golden_spec["hf_config"]), encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["zh_image", "en_image", "zh_text"])
def test_hf_weights_give_the_originals_hf_numbers(
    name: str, hf_directory: Path, golden_spec: Any, golden_pixels: torch.Tensor, golden_numbers: Any
) -> None:
    model, args = read_model(hf_directory)
    assert args.num_layers == golden_spec["hf_config"]["num_layers"]
    case = golden_spec["cases"][name]
    ids = torch.tensor([case["input_ids"] + case["continuation"]])
    picture = {"image": golden_pixels[[case["image_index"] or 0]], "pre_image": case["image_start"]}
    with torch.no_grad():
        logits = model(ids, **(picture if case["image"] else {}))[0][0]
    expected = golden_numbers[f"hf/{name}/logits"]
    assert relative_error(logits[:, :: golden_spec["vocab_stride"]], expected) < 1e-5


def save_sat(directory: Path, model: VisualGLMModel, config: dict[str, Any]) -> Path:
    """Write a SAT checkpoint as SAT's training does."""
    (directory / "1").mkdir(parents=True)
    (directory / "latest").write_text("1")
    (directory / "model_config.json").write_text(json.dumps(config))
    torch.save({"module": model.state_dict()}, directory / "1" / "mp_rank_00_model_states.pt")
    return directory


def test_sat_checkpoints_load(golden_spec: Any, golden_model: VisualGLMModel, tmp_path: Path) -> None:
    directory = save_sat(tmp_path / "sat", golden_model, golden_spec["sat_config"])
    model, _ = read_model(directory)
    for name, parameter in golden_model.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


def test_sat_checkpoints_from_before_0_4_1_are_reordered(
    golden_spec: Any, golden_model: VisualGLMModel, tmp_path: Path
) -> None:
    old = build_model(golden_spec)
    heads = golden_spec["sat_config"]["num_attention_heads"]
    for layer in old.transformer.layers:
        for parameter in layer.attention.query_key_value.parameters():
            parameter.data = interleave_qkv(parameter.data, heads)
    config = {key: value for key, value in golden_spec["sat_config"].items() if key != "pad_token_id"}
    model, args = read_model(save_sat(tmp_path / "old", old, config))
    name = "transformer.layers.1.attention.query_key_value.weight"
    assert torch.equal(model.get_parameter(name), golden_model.get_parameter(name))
    assert args.pad_token_id == 3


def test_the_embedded_model_survives_a_round_trip(tmp_path: Path) -> None:
    checkpoint = open_checkpoint("visualglm-tiny")
    model, _ = read_model("visualglm-tiny")
    eos = load_tokenizer("visualglm-tiny").eos_token_id
    save_hf(tmp_path / "copy", model.state_dict(), checkpoint.config, eos_token_id=eos)
    copied = dict(open_checkpoint(tmp_path / "copy").tensors())
    for name, tensor in checkpoint.tensors():
        assert torch.equal(copied[name], tensor), name
    assert json.loads((tmp_path / "copy/config.json").read_text()) == json.loads((TINY / "config.json").read_text())


def test_the_embedded_model_has_the_promised_size() -> None:
    assert (TINY / "model.safetensors").stat().st_size < 15_000_000
    count = sum(tensor.numel() for _, tensor in open_checkpoint("visualglm-tiny").tensors())
    assert 6_000_000 <= count <= 8_000_000


def test_progress_counts_every_tensor(golden_spec: Any, hf_directory: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_tensors(build_model(golden_spec), open_checkpoint(hf_directory), lambda *step: seen.append(step))
    assert seen[-1] == (len(golden_spec["hf_parameters"]),) * 2


def test_offline_nothing_is_announced_or_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told: list[str] = []
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        resolve("visualglm-6b", notice=told.append)
    assert told == []


def test_names_are_found_in_sat_home_and_here(tmp_path: Path) -> None:
    for place in (tmp_path / "home" / "visualglm-6b", tmp_path / "mine"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    assert resolve("visualglm-6b") == tmp_path / "home" / "visualglm-6b"
    assert resolve("mine").resolve() == tmp_path / "mine"
    assert resolve(str(tmp_path / "mine")) == tmp_path / "mine"
    assert resolve("visualglm-tiny") == TINY


def make_cached(folder: Path, files: dict[str, str]) -> Path:
    """Write a snapshot of the published repository as the hub's client keeps it."""
    repository = folder / "hub" / "models--THUDM--visualglm-6b"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name, content in files.items():
        (snapshot / name).write_text(content)
    return snapshot


def test_the_hubs_cache_is_found(tmp_path: Path) -> None:
    snapshot = make_cached(tmp_path, {"config.json": "{}", "model.safetensors": "", "ice_text.model": ""})
    assert resolve("visualglm-6b") == snapshot


def test_an_interrupted_download_is_taken_up_again(tmp_path: Path) -> None:
    index = json.dumps(
        {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    )
    files = {"config.json": "{}", "pytorch_model.bin.index.json": index, "pytorch_model-00001-of-00002.bin": ""}
    make_cached(tmp_path, files)
    told: list[str] = []
    with pytest.raises(CheckpointError, match="no connection"):
        resolve("visualglm-6b", notice=told.append)
    assert "Downloading" in told[0]


def test_a_model_that_is_nowhere_says_where_it_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(CheckpointError) as caught:
        resolve("visualglm-6b", notice=told.append)
    assert "no connection" in str(caught.value)
    assert "15.6 GB" in told[0]
    assert str(tmp_path / "hub") in told[0]
    message = str(caught.value)
    assert str(tmp_path / "home" / "visualglm-6b") in message
    assert "hf download THUDM/visualglm-6b" in message
    assert "--from_pretrained visualglm-tiny" in message


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "/no/such/directory", ""])
def test_unknown_names_are_refused_without_asking_the_hub(name: str) -> None:
    told: list[str] = []
    with pytest.raises(CheckpointError):
        resolve(name, notice=told.append)
    assert told == []


def test_too_little_disk_space_is_said_before_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    with pytest.raises(CheckpointError, match=r"1\.0 GB free, 15\.6 GB are needed"):
        resolve("visualglm-6b", notice=lambda text: None)


def break_file(directory: Path, name: str, content: str | None) -> Path:
    """Replace a file's content, or remove the file."""
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_text(content)
    return directory


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "not json", "cannot be read as JSON"),
        ("config.json", "[]", "should hold a JSON object"),
        ("config.json", '{"model_type": "llama"}', "not a VisualGLM configuration.*'llama'"),
        ("model.safetensors", None, "no weights"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1", "cannot be read as weights"),
    ],
)
def test_broken_hf_directories_are_explained(hf_directory: Path, name: str, content: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_model(break_file(hf_directory, name, content))


def test_missing_unknown_and_misshapen_tensors_are_named(hf_directory: Path) -> None:
    tensors = dict(open_checkpoint(hf_directory).tensors())
    hf_tensors = {to_hf_name(name): tensor for name, tensor in tensors.items()}
    weight = hf_tensors.pop("transformer.final_layernorm.weight")
    hf_tensors["transformer.extra"] = weight.clone()
    save_file({name: tensor.contiguous() for name, tensor in hf_tensors.items()}, hf_directory / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing: transformer\.final_layernorm\.weight\nunknown: transformer\.extra"
    ):
        read_model(hf_directory)
    hf_tensors["transformer.final_layernorm.weight"] = torch.zeros(3)
    save_file({name: tensor.contiguous() for name, tensor in hf_tensors.items()}, hf_directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"final_layernorm\.weight has shape \[3\]"):
        read_model(hf_directory)


def test_a_missing_shard_is_named(hf_directory: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}}
    (hf_directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"pytorch_model-00001-of-00002\.bin, which is missing"):
        read_model(hf_directory)


def test_broken_sat_directories_are_explained(golden_spec: Any, golden_model: VisualGLMModel, tmp_path: Path) -> None:
    directory = save_sat(tmp_path / "sat", golden_model, golden_spec["sat_config"])
    (directory / "latest").write_text("7")
    with pytest.raises(CheckpointError, match="should hold one file mp_rank_00"):
        read_model(directory)
    (directory / "latest").unlink()
    with pytest.raises(CheckpointError, match="no file called latest"):
        read_model(directory)


def test_a_directory_without_a_model_is_explained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither model_config\.json"):
        load_sat(tmp_path / "empty")


def test_the_tokenizer_is_found_in_the_directory_its_parent_and_sat_home(tmp_path: Path) -> None:
    vocabulary = (TINY / "ice_text.model").read_bytes()
    run = tmp_path / "model" / "run"
    run.mkdir(parents=True)
    for place, name in ((run, run), (run.parent, run), (tmp_path / "home" / "visualglm-6b", "visualglm-6b")):
        place.mkdir(parents=True, exist_ok=True)
        (place / "ice_text.model").write_bytes(vocabulary)
        assert load_tokenizer(name).bos_token_id == load_tokenizer("visualglm-tiny").bos_token_id
        (place / "ice_text.model").unlink()


def test_a_tokenizer_that_is_nowhere_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"hf download THUDM/chatglm-6b ice_text\.model"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_explained(tmp_path: Path) -> None:
    (tmp_path / "ice_text.model").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)

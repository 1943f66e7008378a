"""A conversion and its inverse change no bit; the new directory is complete, or not created."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from model import CheckpointError, load_sat, load_tokenizer
from model.checkpoint import open_checkpoint, save_hf, save_sat
from model.checkpoint.convert import convert, main
from model.checkpoint.layout import interleave_qkv
from model.engine import HF_CHAT
from tests.helpers.checkpoints import QKV, RANK_0, TINY, Small, differing, read_model, write_sat

pytestmark = pytest.mark.usefixtures("offline")
ROOT = Path(__file__).parents[3]


def tensors_of(place: Path | str) -> dict[str, torch.Tensor]:
    """Return a model's tensors."""
    return dict(open_checkpoint(place).tensors())


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Assert that two models have the same names, dtypes and bits."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("size", [1, 4])
def test_there_and_back_from_hugging_face_changes_no_bit(size: int, tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / "sat", "sat", model_parallel_size=size)
    assert len(list((tmp_path / "sat" / "1").iterdir())) == size
    convert(tmp_path / "sat", tmp_path / "hf", "hf")
    assert_same(tensors_of(tmp_path / "sat"), tensors_of("visualglm-tiny"))
    with (
        safe_open(TINY / "model.safetensors", "pt") as first,
        safe_open(tmp_path / "hf/model.safetensors", "pt") as last,
    ):
        assert_same({k: last.get_tensor(k) for k in last.keys()}, {k: first.get_tensor(k) for k in first.keys()})  # noqa: SIM118
    original, back = (json.loads((place / "config.json").read_text()) for place in (TINY, tmp_path / "hf"))
    assert {**back, "auto_map": None} == {**original, "auto_map": None}
    assert (tmp_path / "hf/ice_text.model").read_bytes() == (TINY / "ice_text.model").read_bytes()


@pytest.mark.parametrize("layout", ["split", "interleaved"])
def test_there_and_back_from_sat_changes_no_bit(layout: str, small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = dict(model.state_dict())
    tensors["transformer.word_embeddings.weight"] = tensors[
        "transformer.word_embeddings.weight"
    ].half()  # kept unchanged
    if layout == "interleaved":
        tensors[QKV] = interleave_qkv(tensors[QKV], config["num_attention_heads"])
        config = {key: value for key, value in config.items() if key != "pad_token_id"}
    run = write_sat(tmp_path / "run", tensors, config)
    shutil.copy(TINY / "ice_text.model", run)
    convert(run, tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "sat", "sat")
    expected = tensors_of(run)
    del expected["mixins.chatglm-attn.rotary_emb.inv_freq"]
    assert_same(tensors_of(tmp_path / "sat"), expected)
    written = json.loads((tmp_path / "sat/model_config.json").read_text())
    assert written["qkv_layout"] == "split"
    assert {key: written[key] for key in ("eva_args", "qformer_args", "num_layers")} == {
        key: config[key] for key in ("eva_args", "qformer_args", "num_layers")
    }


def test_sat_files_are_read_by_torch_load(tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / "sat", "sat")
    content = torch.load(tmp_path / "sat" / "1" / RANK_0, mmap=False, weights_only=True)
    assert_same(content["module"], tensors_of("visualglm-tiny"))


def test_a_hugging_face_directory_is_complete(tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / "sat", "sat")
    convert(tmp_path / "sat", tmp_path / "hf", "hf")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "ice_text.model"} <= names
    assert {"tokenizer_config.json", "modeling_chatglm.py", "prompt.py"} <= names
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["auto_map"]["AutoModel"].endswith(config["architectures"][0])
    assert config["eos_token_id"] == load_tokenizer("visualglm-tiny").eos_token_id
    assert load_sat(tmp_path / "hf", device="cpu").network.image_length == 32


def test_sampling_is_the_originals_unless_the_model_says_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(TINY, source)
    (source / "generation_config.json").unlink(missing_ok=True)
    convert(source, tmp_path / "first", "hf")
    first = json.loads((tmp_path / "first/generation_config.json").read_text())
    assert (first["min_length"], first["top_p"], first["do_sample"]) == (HF_CHAT.min_length, HF_CHAT.top_p, True)
    (source / "generation_config.json").write_text('{"min_length": 0, "top_p": 0.9}')
    convert(source, tmp_path / "sat", "sat")  # then via a SAT directory
    convert(tmp_path / "sat", tmp_path / "second", "hf")
    second = json.loads((tmp_path / "second/generation_config.json").read_text())
    assert (second["min_length"], second["top_p"], second["top_k"]) == (0, 0.9, HF_CHAT.top_k)
    assert second["eos_token_id"] == load_tokenizer("visualglm-tiny").eos_token_id


def test_saving_writes_the_sampling_that_it_is_given(small: Small, tmp_path: Path) -> None:
    model, config = small
    save_hf(tmp_path / "a", model.state_dict(), config, eos_token_id=9, sampling={"min_length": 0})
    assert json.loads((tmp_path / "a/generation_config.json").read_text()) == {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": 9,
        "pad_token_id": config["pad_token_id"],
        "do_sample": True,
        "min_length": 0,
    }
    save_hf(tmp_path / "b", model.state_dict(), config, eos_token_id=9)
    assert not (tmp_path / "b/generation_config.json").exists()


def test_sizes_that_sat_leaves_to_its_defaults_are_written_out(small: Small, tmp_path: Path) -> None:
    model, config = small
    sparse = {key: value for key, value in config.items() if key not in ("inner_hidden_size", "layernorm_epsilon")}
    save_hf(tmp_path / "hf", model.state_dict(), sparse, eos_token_id=9, dtype=torch.float32)
    loaded, args = read_model(tmp_path / "hf")
    assert differing(loaded, model.state_dict()) == []
    assert (args.inner_hidden_size, args.layernorm_epsilon) == (4 * config["hidden_size"], 1e-5)


def test_the_dtype_can_be_chosen(tmp_path: Path) -> None:
    for number, to in enumerate(("hf", "sat")):
        assert main(["visualglm-tiny", str(tmp_path / to), "--to", to, "--dtype", "bfloat16"]) == 0, number
        assert {tensor.dtype for tensor in tensors_of(tmp_path / to).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "hf/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_the_row_order_can_be_settled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny = open_checkpoint("visualglm-tiny")
    run = write_sat(tmp_path / "run", tiny.stored_tensors, tiny.config)  # interleaved, but the configuration says split
    shutil.copy(TINY / "ice_text.model", run)
    assert main([str(run), str(tmp_path / "sat"), "--to", "sat"]) == 1
    assert "--qkv-layout interleaved" in capfd.readouterr().err
    assert not (tmp_path / "sat").exists()
    assert main([str(run), str(tmp_path / "sat"), "--to", "sat", "--qkv-layout", "interleaved"]) == 0
    assert_same(tensors_of(tmp_path / "sat"), tensors_of("visualglm-tiny"))


def test_lora_is_merged_when_asked_and_named_when_not(
    small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, config = small
    name = "transformer.layers.0.attention.dense"
    tensors = dict(model.state_dict())
    tensors[f"{name}.original.weight"] = tensors.pop(f"{name}.weight")
    tensors[f"{name}.matrix_A.0"], tensors[f"{name}.matrix_B.0"] = torch.ones(2, 64), torch.ones(64, 2)
    run = write_sat(tmp_path / "run", tensors, {**config, "lora_rank": 2})
    shutil.copy(TINY / "ice_text.model", run)
    assert main([str(run), str(tmp_path / "hf"), "--to", "hf"]) == 1
    told = capfd.readouterr().err
    assert f"LoRA: {name}" in told
    assert "--merge-lora" in told
    assert main([str(run), str(tmp_path / "hf"), "--to", "hf", "--merge-lora"]) == 0
    assert torch.allclose(tensors_of(tmp_path / "hf")[f"{name}.weight"], model.state_dict()[f"{name}.weight"] + 1)


@pytest.mark.parametrize("to", ["hf", "sat"])
def test_a_part_of_a_model_is_not_written_as_a_model(
    to: str, small: Small, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, config = small
    run = write_sat(tmp_path / "run", {QKV: model.state_dict()[QKV]}, config)
    shutil.copy(TINY / "ice_text.model", run)
    command = [str(run), str(tmp_path / "new"), "--to", to]
    assert main(command) == 1
    assert "--base visualglm-6b" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()
    save_sat(tmp_path / "base", model.state_dict(), config)
    assert main([*command, "--base", str(tmp_path / "base")]) == 0
    assert_same(tensors_of(tmp_path / "new"), tensors_of(tmp_path / "base"))


def test_weights_of_another_size_are_not_written(small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = {**model.state_dict(), "transformer.final_layernorm.weight": torch.ones(3)}
    run = write_sat(tmp_path / "run", tensors, config)
    shutil.copy(TINY / "ice_text.model", run)
    with pytest.raises(CheckpointError, match=r"final_layernorm\.weight.*\[3\]"):
        convert(run, tmp_path / "new", "hf")
    assert not (tmp_path / "new").exists()


def test_a_damaged_vocabulary_is_not_passed_on(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "copy")
    vocabulary = tmp_path / "copy" / "ice_text.model"
    vocabulary.write_bytes(vocabulary.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"ice_text\.model"):
        convert(tmp_path / "copy", tmp_path / "new", "sat")
    assert not (tmp_path / "new").exists()


def test_code_that_cannot_be_replaced_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["--refresh-code", str(TINY)]) == 1
    assert "could not be replaced" in capfd.readouterr().err


def test_progress_counts_every_tensor(tmp_path: Path) -> None:
    totals: list[int] = []
    steps: list[None] = []

    def start(total: int) -> Any:
        totals.append(total)
        return lambda: steps.append(None)

    convert("visualglm-tiny", tmp_path / "sat", "sat", progress=start)
    assert totals == [len(steps)]


def test_a_model_without_a_tokenizer_is_not_half_converted(small: Small, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", small[0].state_dict(), small[1])
    assert main([str(run), str(tmp_path / "hf"), "--to", "hf"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_old_remote_code_is_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(TINY, tmp_path / "old")
    (tmp_path / "old" / "modeling_chatglm.py").write_text("raise RuntimeError('old')\n")
    assert main(["--refresh-code", str(tmp_path / "old")]) == 0
    assert "RuntimeError" not in (tmp_path / "old" / "modeling_chatglm.py").read_text()
    assert main(["--refresh-code", str(tmp_path)]) == 1
    assert "error:" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["visualglm-tiny", "DST"], ["visualglm-tiny", "DST", "--to", "hf", "--model-parallel-size", "2"]]
)
def test_a_command_that_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

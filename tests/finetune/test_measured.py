"""The benchmarks of fine-tuning compare with SAT on the same rows; their speed is not tested."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.estimate_finetune import estimate, meta_checkpoint
from benchmarks.full_size import EMBEDDED_MODEL, Source, draw_weights, full_size_config, random_checkpoint
from benchmarks.parts.finetune_ours import IMAGES, OurTraining, write_dataset
from benchmarks.parts.finetune_sat import SatTraining
from finetune.encoding import IGNORE_INDEX
from finetune.forward import AnswerLoss
from finetune.methods import build_network
from model.loading import build_network as build_plain
from tests.benchmarks.test_benchmarks import cells, run, run_alone
from tests.helpers.finetuning import data, train  # noqa: F401
from tests.stress.crash_resume import log_position, losses_of, newest_run, same_checkpoint

LENGTH = 72


@pytest.fixture(scope="module")
def source() -> Source:
    """The source of visualglm-tiny."""
    return Source(Namespace(device="cpu", dtype=None, from_pretrained=EMBEDDED_MODEL, layers=None))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data of the benchmarks."""
    return write_dataset(tmp_path_factory.mktemp("rows"))


def test_the_measured_steps_are_the_trainers(source: Source, rows: Path) -> None:
    ours = OurTraining(source, rows, LENGTH, 2, 2, ["--use_lora", "--layer_range", "0", "2"])
    batch, _ = next(ours.training._steps())[0]
    spent, note = ours.step_ms()
    assert spent > 0
    assert "tokens/s" in note
    assert batch.input_ids.shape == (2, LENGTH)
    assert len(ours.training.train_data) == IMAGES
    assert ours.training.image_cache is not None
    assert len(ours.training.image_cache.embeddings) > 0
    assert not ours.training.run.steps()


def test_sats_loss_equals_ours(source: Source, rows: Path) -> None:
    sat = SatTraining(source, rows, LENGTH, 3, 10, [0, 2], 1)
    tokens = int((sat.batch.labels != IGNORE_INDEX).sum())
    with torch.no_grad():
        ours = AnswerLoss(source.sat().network)(sat.batch, None) / tokens
    assert float(sat.step()) == pytest.approx(float(ours), rel=1e-4)
    trained = [name for name, weight in sat.network.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 8
    assert all("matrix_" in name for name in trained)
    before = float(sat.step())
    assert float(sat.step()) < before


def test_a_random_model_is_loaded_like_one_from_disk(source: Source) -> None:
    small = {**source.config, "num_layers": 1}
    checkpoint = random_checkpoint(small, source.device, torch.float32)
    methods = {"use_lora": True, "use_qlora": False, "use_ptuning": False, "lora_rank": 2, "lora_alpha": 1.0}
    methods |= {"lora_dropout": 0.0, "layer_range": None, "lora_targets": ["llm"]}
    network = build_network(checkpoint, methods, source.device, torch.float32)
    stored, name = checkpoint.stored_tensors, "transformer.layers.0.attention.query_key_value."
    assert torch.equal(network.state_dict()[f"{name}original.weight"], stored[f"{name}weight"])
    assert torch.equal(stored[f"{name}weight"], stored[f"{name}weight"])
    drawn = build_plain(checkpoint, source.device, torch.float32)
    draw_weights(drawn)
    for held, tensor in drawn.state_dict().items():
        if tensor.numel() > 10_000:
            assert float(stored[held].std()) == pytest.approx(float(tensor.std()), rel=0.1)


def test_the_published_sizes_are_built_without_memory() -> None:
    checkpoint = random_checkpoint(full_size_config(), torch.device("cpu"), torch.float16)
    assert sum("query_key_value.weight" in name for name in checkpoint.stored_tensors) == 28 + 39 + 12


def test_finetune_compares_with_sat() -> None:
    few = ["--device", "cpu", "--steps", "2", "--length", "64"]
    chosen = ["lora/step", "original/step", "ptuning/step"]
    found = {row[0]: row[1:] for row in cells(run("benchmarks.finetune", *few, "--only", *chosen))}
    assert all(float(found[name][1].replace(",", "")) > 0 for name in chosen)
    assert float(found["LoRA and the original's"][2]) > 0


@pytest.mark.slow
def test_every_row_of_fine_tuning_is_measured() -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    # Except bfloat16, which a CPU computes slowly, and what is measured like another row: four processes, ZeRO 1.
    few = ("--device", "cpu", "--steps", "2", "--length", "64")
    output = run_alone("benchmarks.finetune", *few, "--only", "[!bft]*/*", "two/zero-2")
    assert "failed" not in output
    assert "could not be made" not in output
    assert {row[0].split("/")[0] for row in cells(output)} >= {
        "lora",
        "qlora",
        "original",
        "two",
        "zero3-saved",
    }


@pytest.mark.slow
def test_checkpointing_saves_fewer_activations() -> None:
    checkpoint = meta_checkpoint()
    plain, twice = (
        [float(cell) for cell in estimate(checkpoint, 1, f"--use_lora --layer_range 0 14{flag}").split("|")[3:8]]
        for flag in ("", " --checkpoint-activations")
    )
    assert plain[0] == twice[0]
    assert plain[1] < twice[1] < plain[1] + plain[0]
    assert plain[2] > 5 * twice[2]
    assert plain[2] < plain[3]
    assert twice[2] < twice[3] < plain[3]
    assert plain[4] == twice[4] == pytest.approx(2 * 7.802, rel=0.01)  # little more than the published parameters


@pytest.mark.slow
def test_kills_are_survived() -> None:
    output = run_alone("tests.stress.crash_resume", "--kills", "3", "--steps", "12", "--interval", "2")
    assert "Passed. 3 kills" in output
    assert len(cells(output)) == 3 + 2


def test_a_broken_checkpoint_is_found(data: Path, tmp_path: Path) -> None:  # noqa: F811
    one, other = (train(data, tmp_path / name, "--use_lora") for name in ("one", "other"))
    assert same_checkpoint(one, other, 2)
    weights = other / "2" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert not same_checkpoint(one, other, 2)
    weights.write_bytes(content[:-10])
    assert not same_checkpoint(one, other, 2)
    assert not same_checkpoint(None, other, 2)


def test_different_losses_are_reported(tmp_path: Path) -> None:
    run_folder = tmp_path / "run-1"
    run_folder.mkdir()
    records = [(1, 2.0), (2, 1.5), (2, 1.5), (1, 2.5)]
    lines = [json.dumps({"step": step, "loss": loss}) for step, loss in records]
    (run_folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert log_position(tmp_path) == (4, 1)
    assert losses_of(run_folder) == {1: {2.0, 2.5}, 2: {1.5}}
    assert newest_run(tmp_path) == run_folder
    assert newest_run(tmp_path / "nowhere") is None

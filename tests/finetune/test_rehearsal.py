"""Rehearsal data contains the base model's answers; images are augmented only if this keeps answers correct."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.images import augment, augment_selected
from finetune.rehearsal import write_rehearsal_data
from finetune.sampler import ResumableBatchSampler
from model import CHINESE, DEMO, ENGLISH, Conversation, Turn, load_sat, load_tokenizer
from model.images.preprocess import load_image
from tests.finetune.test_forward import METHODS, build
from tests.helpers.finetuning import batch_of, data, dataset_of, loss_of, losses_of, train  # noqa: F401


def rehearsal_rows(data: Path, network: Any, file: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:  # noqa: F811
    """Return the rehearsal data that a network generates for the images of a data file."""
    write_rehearsal_data(file, network, load_tokenizer("visualglm-tiny"), [dataset_of(data, network)], count, seed)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_rehearsal_answers_are_the_base_models(data: Path, tmp_path: Path) -> None:  # noqa: F811
    model = load_sat("visualglm-tiny", device="cpu")
    rows = rehearsal_rows(data, model.network, tmp_path / "memory.jsonl", 40)
    config = DEMO.replace(temperature=0.0, repetition_penalty=1.0)
    for row in rows[::7]:
        image = load_image(row["img"]) if "img" in row else None
        turns = [Turn(*turn) for turn in row["history"]]
        conversation = Conversation(image, turns, ENGLISH if row["language"] == "en" else CHINESE)
        assert row["label"] == "".join(piece.text for piece in model.stream_answer(conversation, row["prompt"], config))
    assert len(rows) == len(dataset_of(tmp_path / "memory.jsonl", model.network)) == 40


def test_rehearsal_questions_are_varied(data: Path, tmp_path: Path) -> None:  # noqa: F811
    network = load_sat("visualglm-tiny", device="cpu").network
    rows = rehearsal_rows(data, network, tmp_path / "memory.jsonl", 60)
    assert rows == rehearsal_rows(data, network, tmp_path / "again.jsonl", 60)
    assert rows != rehearsal_rows(data, network, tmp_path / "other.jsonl", 60, seed=1)
    assert {row["language"] for row in rows} == {"zh", "en"}
    assert {Path(row["img"]).name for row in rows if "img" in row} == {"0.png", "1.png", "2.png"}
    assert len({row["prompt"] for row in rows}) > 35
    assert 5 < sum(bool(row["history"]) for row in rows) < 25


def test_the_adapter_does_not_change_rehearsal_answers(data: Path, tmp_path: Path) -> None:  # noqa: F811
    expected = rehearsal_rows(data, load_sat("visualglm-tiny", device="cpu").network, tmp_path / "base.jsonl", 12)
    for method in ("lora", "ptuning"):
        assert rehearsal_rows(data, build(**METHODS[method]), tmp_path / f"{method}.jsonl", 12) == expected


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        (["--use_lora", "--lora_targets", "llm"], "0.01"),
        (["--use_qlora"], "0.01"),
        (["--use_ptuning", "--pre_seq_len", "4"], "0.1"),
        (["--full"], "0.001"),
    ],
    ids=["lora", "qlora", "p-tuning", "full"],
)
def test_rehearsal_reduces_forgetting_with_every_method(
    flags: list[str],
    rate: str,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A higher weight of the rehearsal tokens keeps the model closer to the base model."""
    given = [*flags, "--train-iters", "5", "--lr", rate, "--rehearsal", "12"]
    memory = tmp_path / "memory.jsonl"
    base = load_sat("visualglm-tiny", device="cpu").network
    rehearsal_rows(data, base, memory, 12, seed=1234)
    losses = [
        loss_of(train(data, tmp_path / weight, *given, "--rehearsal-weight", weight), memory) for weight in ("0", "3")
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "method", [["--use_lora", "--lora_targets", "head", "vit"], ["--use_ptuning"]], ids=["lora", "p-tuning"]
)
@pytest.mark.parametrize("varied", [[], ["--crop", "0.5", "--flip", "--gradient-accumulation-steps", "2"]])
def test_a_training_with_rehearsal_resumes_identically(
    method: list[str],
    varied: list[str],
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    flags = [*method, *varied, "--remember", "6"]
    flags += ["--train-iters", "3", "--save-interval", "2", "--batch-size", "3"]
    straight = train(data, tmp_path / "straight", *flags)
    interrupted = Path(shutil.copytree(straight, tmp_path / "halted" / straight.name))
    shutil.rmtree(interrupted / "3")
    assert train(data, tmp_path / "halted", *flags, "--resume") == interrupted
    assert losses_of(interrupted) == losses_of(straight)
    # The four answers are repeated twice, to balance the six rehearsal answers.
    state = json.loads((interrupted / "3" / "state.json").read_text(encoding="utf-8"))
    assert state["examples"] == 4 * 2 + 6
    assert ResumableBatchSampler(14, 3).steps(1) == 5


@pytest.mark.parametrize("crop", [0.2, 0.7])
def test_random_crops_are_enlarged(crop: float) -> None:
    torch.manual_seed(0)
    across = torch.linspace(0, 1, 64).expand(3, 64, 64)
    seen = augment(across[None].repeat(40, 1, 1, 1), crop, flip=False)
    assert seen.shape == (40, 3, 64, 64)
    spans = seen[:, 0, :, -1].mean(1) - seen[:, 0, :, 0].mean(1)
    assert (spans > 0).all()
    assert crop * 0.7 < spans.min() < crop + 0.2
    assert spans.max() > 0.85
    assert not torch.equal(seen[0], seen[1])


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    pixels = torch.arange(8.0).expand(100, 3, 8, 8)
    seen = augment(pixels, 1.0, flip=True)
    mirrored = [torch.equal(image, original.flip(-1)) for image, original in zip(seen, pixels, strict=True)]
    same = [torch.equal(image, original) for image, original in zip(seen, pixels, strict=True)]
    assert sum(mirrored) + sum(same) == 100
    assert 30 < sum(mirrored) < 70
    assert augment(pixels, 1.0, flip=False) is pixels


def test_examples_with_the_same_image_get_the_same_crop(data: Path) -> None:  # noqa: F811
    batch = batch_of(data, load_sat("visualglm-tiny", device="cpu").network)
    batch.image_indices = [0, 0, 1, -1]
    batch.pixels = torch.rand(3, 3, 64, 64)
    both = augment_selected(batch, [True] * 4, 0.5, True)
    assert both.image_indices == [0, 0, 1, -1]
    assert len(both.pixels) == 2
    apart = augment_selected(batch, [True, False, False, False], 0.5, True)
    assert torch.equal(apart.pixels[apart.image_indices[1:3]], batch.pixels[:2])
    assert not torch.equal(apart.pixels[apart.image_indices[0]], batch.pixels[0])
    assert augment_selected(batch, [False] * 4, 0.5, True) is batch

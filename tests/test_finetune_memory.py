"""What is remembered is what the base said; pictures are varied where that changes no answer."""

import json
from pathlib import Path

import pytest
import torch

from finetune.data import ChatDataset
from finetune.memory import QUESTIONS, write_memory
from finetune.order import Order
from finetune.variation import vary
from model import DEMO, Conversation, load_sat
from model.image import load_image
from tests.finetuning import data, losses_of, train  # noqa: F401


def test_the_answers_are_the_base_s_own(data: Path, tmp_path: Path) -> None:  # noqa: F811
    model = load_sat("visualglm-tiny", device="cpu")
    sizes = {"image_length": model.network.image_length, "image_size": model.network.image_size}
    dataset = ChatDataset(data, model.tokenizer, max_length=512, **sizes)
    write_memory(tmp_path / "memory.jsonl", model.network, model.tokenizer, [dataset], 7)
    rows = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7
    assert [row["prompt"] for row in rows[::3]] == [question for _, question in QUESTIONS[:3]]
    config = DEMO.replace(temperature=0.0, repetition_penalty=1.0)
    picture = Conversation(load_image(rows[0]["img"]))
    answer = "".join(piece.text for piece in model.stream_answer(picture, rows[0]["prompt"], config))
    assert rows[0]["label"] == answer
    assert len(ChatDataset(tmp_path / "memory.jsonl", model.tokenizer, max_length=512, **sizes)) == 7


def test_a_training_that_remembers_resumes_as_it_was(data: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = ["--use_lora", "--lora_targets", "head", "vit", "--remember", "6", "--crop", "0.5", "--flip"]
    flags += ["--train-iters", "3", "--save-interval", "2", "--batch-size", "3"]
    straight = train(data, tmp_path / "straight", *flags)
    halted = train(data, tmp_path / "halted", *flags)
    (halted / "3").rename(tmp_path / "away")
    train(data, tmp_path / "halted", *flags, "--resume")
    assert losses_of(halted) == losses_of(straight)
    # The four answers come twice to the six that are remembered.
    state = json.loads((halted / "3" / "state.json").read_text(encoding="utf-8"))
    assert state["examples"] == 4 * 2 + 6
    assert Order(14, 3).steps(1) == 5


@pytest.mark.parametrize("crop", [0.2, 0.7])
def test_parts_of_pictures_are_enlarged(crop: float) -> None:
    torch.manual_seed(0)
    across = torch.linspace(0, 1, 64).expand(3, 64, 64)
    seen = vary(across[None].repeat(40, 1, 1, 1), crop, flip=False)
    assert seen.shape == (40, 3, 64, 64)
    spans = seen[:, 0, :, -1].mean(1) - seen[:, 0, :, 0].mean(1)
    assert (spans > 0).all()
    assert crop * 0.7 < spans.min() < crop + 0.2
    assert spans.max() > 0.85
    assert not torch.equal(seen[0], seen[1])


def test_half_of_the_pictures_are_mirrored() -> None:
    torch.manual_seed(0)
    pixels = torch.arange(8.0).expand(100, 3, 8, 8)
    seen = vary(pixels, 1.0, flip=True)
    mirrored = [torch.equal(picture, original.flip(-1)) for picture, original in zip(seen, pixels, strict=True)]
    same = [torch.equal(picture, original) for picture, original in zip(seen, pixels, strict=True)]
    assert sum(mirrored) + sum(same) == 100
    assert 30 < sum(mirrored) < 70
    assert vary(pixels, 1.0, flip=False) is pixels

"""Helpers of the fine-tuning tests: a few labeled images, and a short training of visualglm-tiny."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from finetune.data import Batch, ChatDataset, collate
from finetune.finetune_visualglm import main
from finetune.forward import AnswerLoss
from finetune.progress import LOG_NAME
from model import load_sat, load_tokenizer

QUESTION = "这张图片是什么颜色？"
COLORS = {"红色": (220, 30, 30), "绿色": (30, 200, 40), "蓝色": (40, 60, 220)}
SHORT = ("--train-iters", "2", "--log-interval", "1", "--num-workers", "0", "--lr", "1e-3")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of training data: three images, and a conversation without an image. Do not change it."""
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, Any]] = []
    for number, (name, color) in enumerate(COLORS.items()):
        Image.new("RGB", (32, 32), color).save(folder / f"{number}.png")
        rows.append({"img": f"{number}.png", "prompt": QUESTION, "label": f"这张图片是{name}的。"})
    rows.append({"prompt": "How are you?", "label": "Fine."})
    file = folder / "dataset.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file


def train(data: Path, save: Path, *flags: str) -> Path:
    """Train visualglm-tiny, for two steps unless `flags` override it; return the run's directory."""
    given = ("--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--save", str(save))
    assert main([*given, *SHORT, *flags]) == 0
    return max(save.iterdir(), key=lambda path: path.stat().st_mtime)


def losses_of(run: Path) -> dict[int, float]:
    """Return the logged losses by step; for a step logged twice the last one."""
    records = [json.loads(line) for line in (run / LOG_NAME).read_text(encoding="utf-8").splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def dataset_of(data: Path, network: Any) -> ChatDataset:
    """Open a data file as a dataset for a network."""
    sizes = {"image_length": network.image_length, "image_size": network.image_size}
    return ChatDataset(data, load_tokenizer("visualglm-tiny"), max_length=512, **sizes)


def batch_of(data: Path, network: Any) -> Batch:
    """Return all examples of a data file as a batch."""
    dataset = dataset_of(data, network)
    return collate([dataset[index] for index in range(len(dataset))])


@torch.no_grad()
def loss_of(run: str | Path, data: Path) -> float:
    """Load a model as the chat does; return the summed loss of a data file's answers."""
    network = load_sat(run, device="cpu").network
    return float(AnswerLoss(network)(batch_of(data, network), None))

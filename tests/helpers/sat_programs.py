"""Fixtures for programs of the original's users: visualglm-tiny as a SAT model, and a question about an image."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model import chat, load_tokenizer
from model.checkpoint import open_checkpoint, save_sat

ROOT = Path(__file__).parents[2]
SCENE = str(ROOT / "examples" / "scene.png")
QUESTION, ANSWER = "图片里有几个物体？", "图片中一共有三个物体。"
ON_CPU = {"skip_init": True, "device": "cpu"}


@pytest.fixture(scope="module", name="tokenizer")
def tiny_tokenizer() -> Any:
    """The tokenizer of visualglm-tiny."""
    return load_tokenizer("visualglm-tiny")


@pytest.fixture(scope="module", name="base")
def sat_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """visualglm-tiny as a SAT directory. Do not modify it."""
    checkpoint = open_checkpoint("visualglm-tiny")
    directory = tmp_path_factory.mktemp("models") / "base"
    save_sat(directory, checkpoint.split_qkv(), {"model_class": "VisualGLMModel", **checkpoint.config})
    return str(directory)


def ask(model: Any, tokenizer: Any) -> str:
    """Return the answer of `model` to the question about the example image."""
    return chat(SCENE, model, tokenizer, QUESTION, temperature=0)[0]


def logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    """Return the logits [1, T, V] of a training step."""
    ids = tokenizer([QUESTION], return_tensors="pt")["input_ids"]
    return model(input_ids=ids)[0]


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Check that two results are equal up to rounding."""
    return torch.allclose(actual, expected, atol=1e-3, rtol=1e-4)

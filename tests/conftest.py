"""Fixtures for all tests: small models with the goldens' weights."""

import gc
import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from model import SatChatModel, load_sat
from model.images.preprocess import preprocess
from model.visualglm import VisualGLMModel
from tests.goldens import golden_weights

GOLDENS = Path(__file__).parent / "goldens"
pytest_plugins = ["tests.helpers.checkpoints", "tests.helpers.web_server"]  # fixtures


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector away from the modules and tests, whose million objects take it seconds each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def golden_spec() -> dict[str, Any]:
    """Configurations, parameter shapes and cases of the goldens."""
    return json.loads((GOLDENS / "tiny" / "model.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_numbers() -> Iterator[Any]:
    """The output arrays of the original."""
    with np.load(GOLDENS / "tiny" / "model.npz") as arrays:
        yield arrays


@pytest.fixture(scope="session")
def golden_images(golden_spec: dict[str, Any]) -> list[Image.Image]:
    """The images of the goldens."""
    return [golden_weights.picture(**arguments) for arguments in golden_spec["pictures"]]


@pytest.fixture(scope="session")
def golden_pixels(golden_images: list[Image.Image]) -> torch.Tensor:
    """The images of the goldens, preprocessed: [2, 3, 224, 224]."""
    return torch.stack([preprocess(image, 224) for image in golden_images])


def build_model(spec: dict[str, Any], **changes: Any) -> VisualGLMModel:
    """Build the goldens' SAT model with its weights, in float32 on the CPU."""
    args = VisualGLMModel.get_args(**{**spec["sat_config"], **changes})
    model = VisualGLMModel(Namespace(**vars(args)))
    golden_weights.fill(model.named_parameters(), spec["seed"])
    return model.eval()


@pytest.fixture(scope="session")
def golden_model(golden_spec: dict[str, Any]) -> VisualGLMModel:
    """The goldens' SAT model. Do not modify it; build another one with `build_model`."""
    return build_model(golden_spec)


def relative_error(actual: torch.Tensor, expected: Any) -> float:
    """Return the norm of the difference divided by the norm of `expected`."""
    reference = torch.as_tensor(expected, dtype=torch.float32)
    difference = actual.detach().float().cpu() - reference
    return float(difference.norm() / reference.norm())


@pytest.fixture(scope="session")
def tiny_model() -> SatChatModel:
    """visualglm-tiny on the CPU. Do not modify it."""
    return load_sat("visualglm-tiny", device="cpu")


@pytest.fixture(scope="session")
def tiny_server(tiny_model: SatChatModel) -> Iterator[httpx.Client]:
    """A client of a server of visualglm-tiny with default settings."""
    from tests.helpers.api_server import serving  # needs fastapi, which most tests do not need

    with serving(tiny_model) as client:
        yield client


@pytest.fixture
def attended_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Enable decode buffers of Hugging Face models on the CPU; return the attended length of each step."""
    from model.hf import generation_chatglm
    from model.hf.generation_chatglm import DecodeBuffers

    seen: list[int] = []
    compute = DecodeBuffers.compute

    def noted(self: DecodeBuffers, model: Any, length: int) -> torch.Tensor:
        seen.append(length)
        return compute(self, model, length)

    monkeypatch.setattr(generation_chatglm, "supports_graphs", lambda device: True)
    monkeypatch.setattr(DecodeBuffers, "compute", noted)
    return seen

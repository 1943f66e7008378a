"""Small models on disk, in both formats, for the tests of reading and writing checkpoints."""

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from model import VisualGLMModel
from model.checkpoint import save_hf
from model.checkpoint.resolve import EMBEDDED
from tests.conftest import build_model

Small = tuple[VisualGLMModel, dict[str, Any]]
TINY = EMBEDDED / "visualglm-tiny"
RANK_0 = "mp_rank_00_model_states.pt"
QKV = "transformer.layers.1.attention.query_key_value.weight"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Disable access to the hub, and to models on this machine."""

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


def make_small_model(spec: dict[str, Any]) -> Small:
    """Build a model with a vocabulary just large enough for SAT to shard; return it with its config."""
    config = {**spec["sat_config"], "vocab_size": 1200}
    return build_model({**spec, "sat_config": config}), config


@pytest.fixture(scope="module")
def small(golden_spec: dict[str, Any]) -> Small:
    """A small model and its configuration. Do not modify it."""
    return make_small_model(golden_spec)


@pytest.fixture
def run(small: Small, tmp_path: Path) -> Path:
    """The directory of a training run of the small model."""
    model, config = small
    return write_sat(tmp_path / "run", model.state_dict(), config, 300)


def read_model(name: str | Path, **options: Any) -> tuple[VisualGLMModel, Namespace]:
    """Load a model onto the CPU."""
    return VisualGLMModel.from_pretrained(str(name), args=Namespace(device="cpu"), **options)


def write_sat(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    number: int = 1,
    **extra: Any,
) -> Path:
    """Write a SAT checkpoint like SAT's training; `extra` is stored in the same file as the weights."""
    folder = directory / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"module": dict(tensors), **extra}, folder / RANK_0)
    (directory / "latest").write_text(str(number))
    (directory / "model_config.json").write_text(json.dumps(config))
    return directory


def write_hf(directory: Path, model: VisualGLMModel, config: Mapping[str, Any], **options: Any) -> Path:
    """Write a model in the Hugging Face format, in float32."""
    save_hf(directory, model.state_dict(), config, eos_token_id=130005, dtype=torch.float32, **options)
    return directory


def differing(model: VisualGLMModel, expected: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the parameters of `model` that differ from `expected` in any bit."""
    return [name for name, parameter in model.named_parameters() if not torch.equal(parameter, expected[name])]

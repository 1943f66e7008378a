"""Exported files have the permissions that the umask grants, for every library that writes them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.checkpoint.convert import convert
from model.checkpoint.peft_adapter import save_adapter
from tests.helpers.finetuning import data, train  # noqa: F401
from tests.helpers.hf_models import load_tiny, tiny_tokenizer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="only POSIX has a umask")


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set a umask for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check_modes(directory: Path, umask: int) -> None:
    """Assert that `directory` and its contents have exactly the permissions that `umask` grants."""
    paths = [directory, *directory.rglob("*")]
    assert any(path.suffix in (".safetensors", ".pt") for path in paths)
    for path in paths:
        granted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(granted), path


@pytest.mark.parametrize("to", ["hf", "sat"])
def test_a_converted_model_has_the_umasks_mode(to: str, umask: int, tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / "new", to)
    check_modes(tmp_path / "new", umask)


def test_a_saved_model_has_the_umasks_mode(umask: int, tmp_path: Path) -> None:
    load_tiny().save_pretrained(tmp_path / "new")
    tiny_tokenizer().save_pretrained(tmp_path / "new")
    check_modes(tmp_path / "new", umask)


def test_an_adapter_has_the_umasks_mode(umask: int, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", {"a": torch.zeros(2, 3)}, {})
    check_modes(tmp_path / "adapter", umask)


def test_a_run_has_the_umasks_mode(umask: int, data: Path, tmp_path: Path) -> None:  # noqa: F811
    check_modes(train(data, tmp_path / "runs", "--use_lora", "--lora_rank", "2"), umask)

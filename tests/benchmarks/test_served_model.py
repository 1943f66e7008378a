"""Test which model the benchmarks of servers load, and that its temporary files are removed."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.full_size import full_size_config
from benchmarks.parts import served_model


def parse(*flags: str) -> argparse.Namespace:
    """Parse the flags of the model, for a CPU."""
    parser = argparse.ArgumentParser()
    served_model.add_served_model_arguments(parser)
    return parser.parse_args(flags, argparse.Namespace(device="cpu"))


@pytest.mark.parametrize("flags, name", [((), "visualglm-tiny"), (("--from_pretrained", "folder"), "folder")])
def test_other_models_are_served_as_they_are(flags: tuple[str, ...], name: str) -> None:
    with served_model.served_model(parse(*flags)) as model:
        assert model == name


def test_a_full_size_model_is_written_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(directory: Path, config: dict[str, Any], device: torch.device) -> None:
        assert (config, device) == (full_size_config(layers=1), torch.device("cpu"))
        directory.mkdir()

    monkeypatch.setattr(served_model, "write_full_size", write)
    with served_model.served_model(parse("--from_pretrained", "full-size", "--layers", "1")) as model:
        assert Path(model).is_dir()
    assert not Path(model).exists()

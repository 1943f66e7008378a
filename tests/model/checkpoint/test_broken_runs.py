"""Errors about damaged SAT runs name the fault and the fix."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model import CheckpointError, load_sat
from model.checkpoint import save_sat
from tests.helpers.checkpoints import RANK_0, Small, read_model

pytestmark = pytest.mark.usefixtures("offline")


def remove_latest(run: Path) -> None:
    (run / "latest").unlink()


def remove_config(run: Path) -> None:
    (run / "model_config.json").unlink()


def remove_weights(run: Path) -> None:
    (run / "300" / RANK_0).unlink()


def say_two_ranks(run: Path) -> None:
    config = json.loads((run / "model_config.json").read_text())
    (run / "model_config.json").write_text(json.dumps({**config, "model_parallel_size": 2}))


def describe_another_model(run: Path) -> None:
    (run / "model_config.json").write_text('{"model_class": "CogVLMModel", "num_layers": 32}')


def point_to(name: str) -> Callable[[Path], None]:
    return lambda run: (run / "latest").write_text(name) and None


def put(content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / "300" / RANK_0).write_bytes(content) and None


def truncate(run: Path) -> None:
    file = run / "300" / RANK_0
    file.write_bytes(file.read_bytes()[:-1000])


def break_directory_of_the_archive(run: Path) -> None:
    file = run / "300" / RANK_0
    content = file.read_bytes()
    file.write_bytes(content[:-300] + bytes(200) + content[-100:])


def set_entry(key: str, value: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        config = json.loads((run / "model_config.json").read_text())
        (run / "model_config.json").write_text(json.dumps({**config, key: value}))

    return change


def pickle_without_module(run: Path) -> None:
    torch.save({"weights": {}}, run / "300" / RANK_0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_latest, r"no file called latest.*iterations are 300"),
        (point_to("7"), r"no directory 7.*iterations are 300"),
        (point_to("../../elsewhere"), r"name of an iteration's directory"),
        (remove_weights, r"mp_rank_00_model_states\.pt is missing"),
        (say_two_ranks, r"weights in 2 files; mp_rank_01_model_states\.pt is missing"),
        (describe_another_model, r"not a VisualGLM configuration: it lacks .*eva_args.*'CogVLMModel'"),
        (
            put(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            r"Git-LFS pointer of 56 bytes.*git lfs pull",
        ),
        (put(b"<!DOCTYPE html><html></html>"), r"is a web page"),
        (put(b""), r"it is empty"),
        (truncate, r"it is truncated"),
        (pickle_without_module, r"no entry 'module'"),
        (break_directory_of_the_archive, r"it is damaged\. Copy or download it again"),
        (put(b"\x1f\x8b\x08" + b"x" * 50), r"compressed archive"),
        (put(bytes(6) + b"\0\0" + b'{"a":{}}'), r"contains safetensors"),
        (put(b"words"), r"something else, or is damaged\. Copy"),
        (set_entry("num_layers", "four"), r"num_layers is 'four'"),
        (set_entry("num_attention_heads", 0), r"num_attention_heads is 0"),
        (set_entry("num_attention_heads", 7), r"num_attention_heads, 7, does not divide"),
        (set_entry("hidden_size", None), r"hidden_size is None"),
        (set_entry("eva_args", 3), r"eva_args .* sizes by name, not 3"),
        (set_entry("model_parallel_size", "x"), r"model_parallel_size is 'x'"),
        (point_to("1\n2"), r"it contains '1\\n2'"),
    ],
)
def test_broken_runs_are_explained(damage: Callable[[Path], None], message: str, run: Path) -> None:
    damage(run)
    with pytest.raises(CheckpointError, match=message):
        read_model(run)


def test_no_message_advises_to_run_what_a_file_holds(run: Path) -> None:
    put(b"\x80\x02}q\x00.")(run)
    with pytest.raises(CheckpointError) as caught:
        read_model(run)
    assert "weights_only" not in str(caught.value)


def test_a_rank_that_is_a_copy_of_another_is_refused(small: Small, tmp_path: Path) -> None:
    save_sat(tmp_path / "run", small[0].state_dict(), small[1], model_parallel_size=2)
    folder = tmp_path / "run" / "1"
    shutil.copy(folder / RANK_0, folder / "mp_rank_01_model_states.pt")
    with pytest.raises(CheckpointError, match="ranks 0 and 1"):
        read_model(tmp_path / "run")


def test_weights_without_their_configuration_say_what_is_missing(run: Path) -> None:
    remove_config(run)
    for place in (run / "300", run / "300" / RANK_0):
        with pytest.raises(CheckpointError, match=r"model_config\.json"):
            load_sat(place)


def test_a_zip_where_weights_should_be_asks_to_be_unpacked(run: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "visualglm-6b"), "zip", run)
    shutil.copy(archive, run / "300" / RANK_0)
    for place in (run, Path(archive)):
        with pytest.raises(CheckpointError, match="zip archive"):
            read_model(place)

"""A model's name is resolved to files on this machine or on the hub; errors are explained."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.methods import choose_base
from model import CheckpointError, TokenizerError, load_sat
from model.checkpoint import find_vocabulary, open_checkpoint, resolve
from model.checkpoint.convert import convert
from model.checkpoint.resolve import EMBEDDED
from tests.helpers.checkpoints import TINY

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(autouse=True)
def large_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report a disk with enough free space for the published model."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**12))


def test_offline_nothing_is_announced_or_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told: list[str] = []
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        resolve("visualglm-6b", notice=told.append)
    assert told == []


def test_names_are_found_in_sat_home_and_here(tmp_path: Path) -> None:
    for place in (tmp_path / "home" / "visualglm-6b", tmp_path / "mine"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
    assert resolve("visualglm-6b") == tmp_path / "home" / "visualglm-6b"
    assert resolve("mine").resolve() == tmp_path / "mine"
    assert resolve(str(tmp_path / "mine")) == tmp_path / "mine"
    assert resolve("visualglm-tiny") == TINY


def make_cached(folder: Path, files: dict[str, str]) -> Path:
    """Write a snapshot of the published repository in the format of the hub cache."""
    repository = folder / "hub" / "models--THUDM--visualglm-6b"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name, content in files.items():
        (snapshot / name).write_text(content)
    return snapshot


def test_the_hub_cache_is_found(tmp_path: Path) -> None:
    snapshot = make_cached(tmp_path, {"config.json": "{}", "model.safetensors": "", "ice_text.model": ""})
    assert resolve("visualglm-6b") == snapshot


def test_an_adapter_in_the_hub_cache_is_found_when_it_is_complete(tmp_path: Path) -> None:
    snapshot = make_cached(tmp_path, {"adapter_config.json": "{}"})
    with pytest.raises(CheckpointError, match="connection"):
        resolve("visualglm-6b", notice=lambda text: None)
    (snapshot / "adapter_model.safetensors").touch()
    assert resolve("visualglm-6b") == snapshot


def test_an_interrupted_download_is_taken_up_again(tmp_path: Path) -> None:
    index = json.dumps(
        {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    )
    files = {"config.json": "{}", "pytorch_model.bin.index.json": index, "pytorch_model-00001-of-00002.bin": ""}
    make_cached(tmp_path, files)
    told: list[str] = []
    with pytest.raises(CheckpointError, match="connection"):
        resolve("visualglm-6b", notice=told.append)
    assert "Downloading" in told[0]


def test_a_missing_model_lists_the_searched_paths_and_what_to_do(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(CheckpointError) as caught:
        resolve("visualglm-6b", notice=told.append)
    assert "no connection" in str(caught.value)
    assert "15.6 GB" in told[0]
    assert str(tmp_path / "hub") in told[0]
    message = str(caught.value)
    assert str(tmp_path / "home" / "visualglm-6b") in message
    assert "hf download THUDM/visualglm-6b" in message
    assert "--from_pretrained visualglm-tiny" in message
    assert "Did you mean" not in message


@pytest.mark.parametrize(
    "name", ["no-such-model", "./nowhere", "/no/such/directory", "", "a b/c d", "a--b/c", "x" * 5000, "/" + "x" * 300]
)
def test_unknown_names_are_refused_without_asking_the_hub(name: str) -> None:
    told: list[str] = []
    with pytest.raises(CheckpointError):
        resolve(name, notice=told.append)
    assert told == []


def test_too_little_disk_space_is_said_before_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(CheckpointError, match=r"1\.0 GB.*15\.6 GB"):
        resolve("visualglm-6b", notice=lambda text: None)


def test_a_directory_without_a_model_is_explained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"model_config\.json"):
        load_sat(tmp_path / "empty")


def test_the_embedded_models_have_the_promised_size() -> None:
    assert [path.name for path in EMBEDDED.iterdir()] == ["visualglm-tiny"]
    assert (TINY / "model.safetensors").stat().st_size < 15_000_000
    count = sum(tensor.numel() for _, tensor in open_checkpoint("visualglm-tiny").tensors())
    assert 6_000_000 <= count <= 8_000_000


def test_a_file_that_is_no_model_is_refused_before_the_hub_is_asked(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "folder" / "notes").write_text("words")
    told: list[str] = []
    for name, message in (("folder/model", "Git-LFS pointer"), ("folder/notes", "Give the directory")):
        with pytest.raises(CheckpointError, match=message):
            resolve(name, notice=told.append)
    assert told == []


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*args: object, local_files_only: bool = False, **kwargs: object) -> str:
        if local_files_only:
            from huggingface_hub.errors import LocalEntryNotFoundError

            raise LocalEntryNotFoundError("not here")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fill)
    with pytest.raises(CheckpointError, match=r"other/model.*No space left"):
        resolve("other/model", notice=lambda text: None)


def test_a_directory_that_may_not_be_read_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(CheckpointError, match=r"closed/model_config\.json.*Permission denied"):
        resolve(tmp_path / "closed")


def test_what_lies_next_to_a_model_points_to_it(tmp_path: Path) -> None:
    snapshot = make_cached(tmp_path, {"config.json": "{}"})
    with pytest.raises(CheckpointError, match="abc"):
        resolve(snapshot.parents[1])


def test_another_hub_model_is_not_answered_with_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hf download other/model"):
        resolve("other/model")


@pytest.mark.parametrize(("content", "message"), [(b"version https://git-lfs", "Git-LFS"), (b"<html>", "web page")])
@pytest.mark.parametrize("name", ["ice_text.model", "tokenizer_config.json"])
def test_a_tokenizer_that_was_not_downloaded_is_said(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "copy")
    (tmp_path / "copy" / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=f"{name}.*{message}"):
        find_vocabulary(tmp_path / "copy")


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], io.StringIO]:
    """Simulate a user who types a line at a terminal; return the stream of the output."""

    class TerminalChat(io.StringIO):
        def isatty(self) -> bool:
            return True

    def type_line(line: str) -> io.StringIO:
        monkeypatch.setattr("sys.stdin", TerminalChat(line))
        monkeypatch.setattr("sys.stderr", TerminalChat())
        return sys.stderr

    return type_line


@pytest.mark.parametrize("line", ["", "\n", "n\n", "what?\n"])
def test_at_a_terminal_nothing_is_downloaded_without_a_yes(
    line: str, at_terminal: Callable[[str], io.StringIO], tmp_path: Path
) -> None:
    shown = at_terminal(line)
    told: list[str] = []
    for name in ("visualglm-6b", "other/model"):
        with pytest.raises(CheckpointError, match="downloaded") as caught:
            resolve(name, notice=told.append)
        assert "hf download" in str(caught.value)
    assert told == []
    assert "15.6 GB" in shown.getvalue()
    assert "unknown size" in shown.getvalue()


def test_with_a_yes_it_is_downloaded(at_terminal: Callable[[str], io.StringIO]) -> None:
    at_terminal("Yes\n")
    told: list[str] = []
    with pytest.raises(CheckpointError, match="connection"):
        resolve("visualglm-6b", notice=told.append)
    assert len(told) == 1


def test_several_processes_do_not_ask(
    at_terminal: Callable[[str], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = at_terminal("yes\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CheckpointError, match="downloaded"):
        resolve("visualglm-6b")
    assert shown.getvalue() == ""


def test_a_path_that_is_misspelt_is_not_sought_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "runs" / "my-run").mkdir(parents=True)
    (tmp_path / "runs" / "my-run" / "model_config.json").write_text("{}")
    (tmp_path / "home" / "kept").mkdir(parents=True)
    told: list[str] = []
    for name in ("runs/my-rum", "checkpoints/RUN", "kept/model", "weights/model.pt", "a/model.safetensors"):
        with pytest.raises(CheckpointError, match="no model") as caught:
            resolve(name, notice=told.append)
        assert f"hf download {name}" not in str(caught.value)
        assert "hub cache" not in str(caught.value)
        assert ("Did you mean runs/my-run?" in str(caught.value)) == (name == "runs/my-rum")
    assert told == []


def test_a_published_model_is_sought_on_the_hub_beside_others_of_its_maker(tmp_path: Path) -> None:
    (tmp_path / "THUDM" / "chatglm-6b").mkdir(parents=True)
    told: list[str] = []
    with pytest.raises(CheckpointError, match="connection"):
        resolve("THUDM/visualglm-6b", notice=told.append)
    assert len(told) == 1


@pytest.fixture
def homeless(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without a home directory."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("SAT_HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_models_are_found_and_missing_ones_are_said() -> None:
    assert resolve("visualglm-tiny") == TINY
    assert find_vocabulary("visualglm-tiny") == TINY
    for name, message in (("nowhere", "There is no model"), ("~/nowhere", "There is no model")):
        with pytest.raises(CheckpointError, match=message):
            resolve(name)
    with pytest.raises(CheckpointError, match="HF_HOME"):
        resolve("visualglm-6b")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_a_base_is_chosen_and_a_model_written(tmp_path: Path) -> None:
    assert choose_base()[0] in ("visualglm-tiny", "visualglm-6b")
    convert("visualglm-tiny", tmp_path / "copy", "hf")
    assert (tmp_path / "copy" / "model.safetensors").is_file()


def test_an_empty_sat_home_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAT_HOME", " ")
    with pytest.raises(CheckpointError) as caught:
        resolve("nowhere")
    assert str(tmp_path / " ") not in str(caught.value)

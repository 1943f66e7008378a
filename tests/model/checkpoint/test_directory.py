"""The destination of a conversion is created completely or not at all, for every kind of interruption."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model import CheckpointError
from model.checkpoint import open_checkpoint, save_hf, save_sat
from model.checkpoint.convert import convert, main
from tests.helpers.preloaded import run_forked

pytestmark = pytest.mark.usefixtures("offline")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("to", ["hf", "sat"])
def test_an_interrupted_conversion_leaves_nothing(to: str, tmp_path: Path) -> None:
    seen: list[Path] = []

    def start(total: int) -> Any:
        def interrupt() -> None:
            seen.extend(tmp_path.iterdir())
            if len(seen) > total // 2:
                raise KeyboardInterrupt

        return interrupt

    with pytest.raises(KeyboardInterrupt):
        convert("visualglm-tiny", tmp_path / "new", to, progress=start)
    assert seen
    assert all(path.name.startswith("new.part-") for path in seen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["hf", "sat"])
def test_a_killed_conversion_leaves_nothing_that_looks_whole(to: str, tmp_path: Path) -> None:
    tiny = open_checkpoint("visualglm-tiny")

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        if to == "hf":
            save_hf(tmp_path / "new", tiny.split_qkv(), tiny.config, eos_token_id=9, progress=die)
        else:
            save_sat(tmp_path / "new", tiny.split_qkv(), tiny.config, progress=die)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "new")


@pytest.mark.parametrize("to", ["hf", "sat"])
def test_a_disk_that_fills_up_is_an_error_that_leaves_nothing(to: str, tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from model.checkpoint.convert import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7));"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = run_forked(["-c", code, "visualglm-tiny", str(tmp_path / "new"), "--to", to], cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert b"new could not be written" in done.stderr
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_no_failure_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm.update", interrupt)
    assert main(["visualglm-tiny", str(tmp_path / "new"), "--to", "sat"]) == 130
    assert "Interrupted" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_destinations_that_are_links_or_have_long_names_are_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    count = open_checkpoint("visualglm-tiny").count
    for name in ("link", "a" * 250, "中 文"):
        convert("visualglm-tiny", tmp_path / name, "hf")
        assert open_checkpoint(tmp_path / name).count == count
    assert (tmp_path / "link").is_symlink()


def test_destinations_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name, message in (("../file/new", "could not be written"), (".", "in use"), ("b" * 300, "could not be")):
        with pytest.raises(CheckpointError, match=message):
            convert("visualglm-tiny", Path(name), "sat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here"]
    assert not any((tmp_path / "here").iterdir())


def test_a_larger_dtype_needs_more_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size = open_checkpoint("visualglm-tiny").size
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": size + 10**6})())
    convert("visualglm-tiny", tmp_path / "half", "hf")
    with pytest.raises(CheckpointError, match=r"28\.8 MB"):
        convert("visualglm-tiny", tmp_path / "full", "hf", dtype=torch.float32)


def test_nothing_is_written_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    convert("visualglm-tiny", tmp_path / "mine", "sat")  # an empty directory is accepted
    before = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert main(["visualglm-tiny", str(tmp_path / "mine"), "--to", "hf"]) == 1
    assert "already exists" in capfd.readouterr().err
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == before


def test_too_little_disk_space_is_said_before_writing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="disk"):
        convert("visualglm-tiny", tmp_path / "new", "sat")
    assert list(tmp_path.iterdir()) == []

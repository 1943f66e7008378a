"""A run is resumed from its newest intact checkpoint, by one training at a time, with unchanged data."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune.checkpoints import Run, RunLock
from finetune.errors import TrainingError
from finetune.finetune_visualglm import main
from finetune.training_state import MANIFEST_NAME
from model import load_sat
from tests.helpers.finetuning import SHORT, data, train  # noqa: F401
from tests.helpers.preloaded import ForkedProgram

ROOT = Path(__file__).parents[2]
FLAGS = ("--use_lora", "--layer_range", "0", "--train-iters", "3", "--save-interval", "1")
LOCK_AND_WAIT = (
    "import sys, pathlib, finetune.checkpoints as m; m.RunLock(pathlib.Path(sys.argv[1])); print(1, flush=True);"
)
LOCK_AND_WAIT += "sys.stdin.read()"
LOCK_AND_FORK = "import os, sys, pathlib, time, finetune.checkpoints as m; lock = m.RunLock(pathlib.Path(sys.argv[1]));"
LOCK_AND_FORK += "child = os.fork(); child or time.sleep(99); print(child, flush=True); time.sleep(99)"


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run with checkpoints of steps 1, 2 and 3. Do not change it."""
    return train(data, tmp_path_factory.mktemp("finished"), *FLAGS)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "save" / finished.name))


def command(file: Path, run: Path, *flags: str) -> list[str]:
    """Return the arguments that resume the newest run in the parent directory of `run`."""
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(file)]
    return [*given, *SHORT, *FLAGS, "--save", str(run.parent), "--resume", *flags]


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-len(content) // 3] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def write(text: str) -> Callable[[Path], None]:
    return lambda file: file.write_text(text, encoding="utf-8") and None


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "weights cut": ("weights.safetensors", cut),
    "weights changed": ("weights.safetensors", flip_a_bit),
    "weights gone": ("weights.safetensors", Path.unlink),
    "optimizer cut": ("optimizer.pt", cut),
    "optimizer changed": ("optimizer.pt", flip_a_bit),
    "optimizer gone": ("optimizer.pt", Path.unlink),
    "optimizer a directory": ("optimizer.pt", make_directory),
    "state empty": ("state.json", write("")),
    "state another": ("state.json", write('{"step": 2}')),
    "state gone": ("state.json", Path.unlink),
    "manifest broken": (MANIFEST_NAME, write("[" * 100_000)),
    "manifest outside": (MANIFEST_NAME, write('{"files": {"../../../secret": "0"}}')),
}
DAMAGES_WITHOUT_MANIFEST = {
    "state of another step": ("state.json", write(json.dumps(dict.fromkeys(("step", "examples", "step_size"), 1)))),
    "state a list": ("state.json", write("[]")),
    "state nested": ("state.json", write("[" * 100_000)),
    "weights cut": ("weights.safetensors", cut),
    "weights empty": ("weights.safetensors", write("")),
    "optimizer cut": ("optimizer.pt", cut),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_and_not_resumed_from(
    damage: tuple[str, Callable[[Path], None]],
    data: Path,  # noqa: F811
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, change = damage
    change(run / "3" / name)
    assert main(command(data, run)) == 0
    output = capsys.readouterr().err
    assert "checkpoint of step 3" in output
    assert "is damaged" in output
    assert "after step 2" in output
    assert Run(run, 9).find_damage(3) is None
    assert (run / "damaged-3").is_dir()
    assert (run / "latest").read_text() == "3"


@pytest.mark.parametrize("damage", DAMAGES_WITHOUT_MANIFEST.values(), ids=DAMAGES_WITHOUT_MANIFEST)
def test_damage_is_found_without_a_manifest(damage: tuple[str, Callable[[Path], None]], run: Path) -> None:
    name, change = damage
    for step in "123":
        (run / step / MANIFEST_NAME).unlink()
    change(run / "3" / name)
    assert Run(run, 9).find_intact()[0] == 2


def test_other_directories_are_not_touched(data: Path, run: Path) -> None:  # noqa: F811
    for name in ("²", "٣", "03", "3.5", "-4"):
        shutil.copytree(run / "3", run / name)
    (run / "9").write_text("a file")
    assert Run(run, 9).directory_steps() == [1, 2, 3]
    assert main(command(data, run)) == 0
    assert load_sat(run, device="cpu") is not None


def test_the_newest_intact_checkpoint_may_be_an_older_one(
    data: Path,  # noqa: F811
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut(run / "3" / "optimizer.pt")
    (run / "2" / "state.json").unlink()
    assert main([*command(data, run, "--keep", "1")]) == 0
    assert "after step 1" in capsys.readouterr().err
    assert Run(run, 1).directory_steps() == [3]


def test_an_error_lists_the_damage_of_all_checkpoints(
    data: Path,  # noqa: F811
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for step in "123":
        cut(run / step / "weights.safetensors")
    assert main(command(data, run)) == 1
    assert capsys.readouterr().err.count("weights.safetensors has changed since it was written") == 3
    assert Run(run, 9).directory_steps() == [1, 2, 3]


@pytest.fixture
def owner(run: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock of the run."""
    given = ["-c", LOCK_AND_WAIT, str(run)]
    with ForkedProgram(given, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
        process.kill()


def test_a_second_training_of_a_run_is_refused_until_the_first_ends(
    data: Path,  # noqa: F811
    run: Path,
    owner: "subprocess.Popen[str]",
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = run / ".part-of-the-first"
    part.mkdir()
    assert main(command(data, run)) == 1
    assert f"process {owner.pid}" in capsys.readouterr().err
    assert part.is_dir()
    owner.kill()
    owner.wait()
    assert main(command(data, run)) == 0
    assert not part.exists()


def test_a_worker_that_outlives_a_killed_training_does_not_keep_the_lock(run: Path) -> None:
    with ForkedProgram(["-c", LOCK_AND_FORK, str(run)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        with pytest.raises(TrainingError, match=r"process"):
            RunLock(run)
        process.kill()
        process.wait()
        try:
            RunLock(run).close()
        finally:
            subprocess.run(["kill", "-9", str(child)], check=True)


def test_a_new_run_is_locked_while_it_trains(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[int | None] = []
    save = Run.save

    def noted(self: Run, *given: object) -> None:
        held.append(None if self.lock is None else self.lock.descriptor)
        save(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "save", noted)
    train(data, tmp_path, "--use_lora", "--layer_range", "0")
    assert held
    assert None not in held


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A copy of the training data, to be changed."""
    return Path(shutil.copytree(data.parent, tmp_path / "data")) / data.name


def test_changed_training_data_raises_an_error_unless_allowed(
    own_data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(own_data, run)) == 0  # another path with the same contents
    own_data.write_text(own_data.read_text(encoding="utf-8").replace("Fine", "Good"), encoding="utf-8")
    capsys.readouterr()
    assert main(command(own_data, run)) == 1
    assert str(own_data) in capsys.readouterr().err
    assert main(command(own_data, run, "--allow-changed-data", "--train-iters", "4")) == 0
    assert "has changed" in capsys.readouterr().err
    assert main(command(own_data, run)) == 0  # the data of the newest checkpoint


def test_changed_held_out_data_is_reported(
    data: Path,  # noqa: F811
    own_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--valid-data", str(own_data), "--eval-answers", "0")
    run = train(data, tmp_path / "save", *FLAGS, *flags)
    own_data.write_text(own_data.read_text(encoding="utf-8").replace("Fine", "Good"), encoding="utf-8")
    assert main(command(data, run, *flags)) == 0
    assert "held-out data has changed" in capsys.readouterr().err


def test_another_optimizer_is_refused(
    data: Path,  # noqa: F811
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    optimizer = "finetune.preparation.PlainOptimizer"
    from finetune.optimizer import PlainOptimizer

    class Other(PlainOptimizer):
        """An optimizer that saves itself elsewhere, as deepspeed's does."""

        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[arg-type]
            self.state_name = "deepspeed"

    monkeypatch.setattr(optimizer, Other)
    assert main(command(data, run)) == 1
    assert "has no deepspeed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../x", "a/b", "/x", "..", "", "a\\b", "a\nb"])
def test_an_experiment_cannot_leave_its_directory(name: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    save = tmp_path / "deep" / "down"
    given = ["--from_pretrained", "visualglm-tiny", "--train-data", str(data), "--save", str(save), "--use_lora"]
    assert main([*given, "--experiment-name", name]) == 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--train-data", "--valid-data"])
def test_a_misspelled_path_is_reported_before_a_model_is_opened(
    flag: str,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("finetune.methods.open_checkpoint", opened.append)
    given = ["--train-data", str(data), "--use_lora", "--save", str(tmp_path)]
    assert main([*given, flag, str(tmp_path / "datset.json")]) == 1
    assert "datset.json cannot be read" in capsys.readouterr().err
    assert not opened

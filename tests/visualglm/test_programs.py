"""All programs share exit codes, the form of errors, the handling of Ctrl-C, and output to any encoding."""

import ast
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from model import CheckpointError, SettingError
from model.command_line import FAILURE, INTERRUPTED, SUCCESS, USAGE_ERROR, ArgumentParser, run_program
from tests.helpers.cli_program import ROOT, environment, run_here
from tests.helpers.preloaded import run_forked
from visualglm.cli import COMMANDS

# Started as child processes by other programs.
CHILDREN = ("benchmarks/parts/", "model/images/decode_worker.py")
# They show how to train with TRL alone.
TRAINERS = ("examples/trl/sft.py", "examples/trl/dpo.py", "examples/trl/grpo.py")


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def main() -> NoReturn:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "shown"),
    [
        (lambda: None, SUCCESS, ""),
        (lambda: 1, 1, ""),
        (lambda: 143, 143, ""),
        (raising(CheckpointError("It is gone.")), FAILURE, "error: It is gone.\n"),
        (raising(SettingError("It is senseless.")), USAGE_ERROR, "error: It is senseless.\n"),
        (raising(KeyboardInterrupt()), INTERRUPTED, ""),
    ],
)
def test_exit_codes(main: Callable[[], int | None], code: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(main) == code
    assert capsys.readouterr().err == shown


def test_a_bug_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 // 0)


def test_an_interrupted_program_says_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(raising(KeyboardInterrupt()), interrupted="Half is written.") == INTERRUPTED
    assert capsys.readouterr().err == "error: Half is written.\n"


def test_the_parser_reports_errors_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ArgumentParser(prog="program").parse_args(["--no-such-flag"])
    assert ended.value.code == USAGE_ERROR
    assert "\nerror: " in capsys.readouterr().err


def test_streams_take_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    err = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)

    def main() -> None:
        print("猫 cat")
        raise CheckpointError("狗 dog")

    assert run_program(main) == FAILURE
    assert (out.buffer.getvalue(), err.buffer.getvalue()) == (b"? cat\n", b"error: ? dog\n")


def test_every_program_uses_the_wrapper() -> None:
    programs = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("tests/", ".", *CHILDREN, *TRAINERS)):
            continue
        text = path.read_text("utf-8")
        if '__name__ == "__main__"' in text:
            programs[name] = ast.parse(text)
    assert len(programs) >= 28
    assert [name for name, tree in programs.items() if not runs_wrapped(tree)] == []


def runs_wrapped(tree: ast.Module) -> bool:
    """Return whether a program calls `run_program`, or the main function of a program that does."""
    if any(isinstance(node, ast.Call) and ast.unparse(node.func) == "run_program" for node in ast.walk(tree)):
        return True
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return bool({"visualglm.cli", "check", "finetune"} & {*names})


def test_every_command_uses_the_wrapper() -> None:
    for command in COMMANDS.values():
        if command.module != "finetune.__main__":  # calls finetune.finetune_visualglm
            path = ROOT / f"{command.module.replace('.', '/')}.py"
            assert runs_wrapped(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "command",
    [
        ["cli_demo.py"],
        ["web_demo.py"],
        ["api.py"],
        ["finetune/finetune_visualglm.py"],
        ["-m", "model.checkpoint.convert"],
        ["-m", "finetune.data"],
        ["-m", "tiny.fewshot"],
    ],
    ids=lambda command: command[-1],
)
def test_help_is_written_to_any_output(command: list[str]) -> None:
    done = run_here([*command, "--help"], encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout


@pytest.mark.parametrize("program", ["check", "convert", "merge"])
def test_names_are_written_to_any_output(program: str, tmp_path: Path) -> None:
    out = tmp_path / "模型"
    commands = {
        "check": ["-m", "finetune.data", "check", str(out / "数据.json")],
        "convert": ["-m", "model.checkpoint.convert", "visualglm-tiny", str(out), "--to", "sat"],
        "merge": ["-m", "finetune.merge", str(out), "--out", str(tmp_path / "合并"), "--to", "hf"],
    }
    done = run_here(commands[program], encoding="ascii")
    assert done.returncode == (SUCCESS if program == "convert" else FAILURE), done.stderr
    assert ("\nerror: " in f"\n{done.stderr}") is (program != "convert")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "command",
    [
        ["cli_demo.py", "--query", "hi"],
        ["-m", "tiny.evaluate"],
        ["-m", "finetune.data", "check", "fewshot.json"],
        ["-m", "tiny.probe"],
    ],
    ids=" ".join,
)
def test_a_model_that_is_not_there_is_the_same_error_everywhere(command: list[str], tmp_path: Path) -> None:
    if "check" in command:
        (tmp_path / "fewshot.json").write_text('[{"prompt": "a", "label": "b"}]')
        command = [*command[:-1], str(tmp_path / "fewshot.json")]
    done = run_here([*command, "--from_pretrained", str(tmp_path / "none")])
    assert done.returncode == FAILURE, done.stderr
    assert "error: There is no model called" in done.stderr


def test_a_traceback_is_not_prefixed_with_a_rank() -> None:
    code = "from model import VisualGLMModel; VisualGLMModel.from_pretrained('visualglm-tiny'); 1 / 0"
    done = run_forked(["-c", code], cwd=ROOT, env=environment())
    assert done.returncode == 1
    assert b"[rank" not in done.stderr
    assert b"\nZeroDivisionError" in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_shows_what_it_installs_and_says_how_to_use_it() -> None:
    done = subprocess.run(["make", "-n", "-B", "web"], cwd=ROOT, capture_output=True, text=True, check=True)
    installs = [line for line in done.stdout.splitlines() if "pip" in line.split() and "install" in line.split()]
    assert len(installs) == 4
    assert not [line for line in installs if "--quiet" in line or "-q" in line.split()]
    assert "source .venv/bin/activate" in done.stdout

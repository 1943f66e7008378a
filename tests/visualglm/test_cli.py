"""The console program: commands, help, and errors for missing and shadowed modules."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import model
from tests.helpers.cli_program import ROOT, environment, run_here
from tests.helpers.preloaded import run_preloaded
from visualglm import arguments, cli
from visualglm.cli import COMMANDS

# Runs the console program as if some modules were not installed.
WITHOUT = """
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
from visualglm.cli import main
sys.argv[0] = "visualglm"
sys.exit(main())
"""


def run_without(names: list[str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the console program as if modules of these names, which do not include torch, were not installed."""
    code = f"import sys; sys.argv[1:] = {[*arguments]!r}\n{WITHOUT.format(names=names)}"
    return run_preloaded(code, variables=environment())


def run(*command: str | Path, cwd: Path = ROOT, **changes: str) -> "subprocess.CompletedProcess[str]":
    variables = environment(**{"PYTHONPATH": str(ROOT), **changes})
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_a_program(command: cli.Command) -> None:
    assert find_spec(command.module) is not None


def test_help_lists_the_commands_and_imports_no_torch() -> None:
    done = run("-X", "importtime", "-m", "visualglm", "--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "visualglm.cli" in imported
    assert not imported & {"torch", "numpy", "transformers", "sat", "gradio", "fastapi"}


@pytest.mark.parametrize("name", ["chat", "check-data", "convert", "finetune", "plot"])
def test_the_help_of_a_command_names_it_as_it_was_called(name: str) -> None:
    done = run_here(["-m", "visualglm", name, "--help"])
    assert done.returncode == 0, done.stderr
    assert f"usage: visualglm {name} " in done.stdout
    assert "python -m finetune" not in done.stdout


@pytest.mark.parametrize(("words", "advice"), [(["cht"], "chat"), (["\x1b[31m"], "serve"), ([], "serve")])
def test_an_unknown_command_is_rejected(words: list[str], advice: str) -> None:
    done = run("-m", "visualglm", *words)
    assert (done.returncode, done.stdout) == (cli.MISUSED, "")
    assert advice in done.stderr.splitlines()[-1]
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("name", cli.PACKAGES)
def test_a_module_of_the_user_s_in_place_of_ours_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    done = run("-m", "visualglm", "chat", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (cli.FAILED, "")
    assert done.stderr.startswith("error: ")
    assert str(tmp_path / f"{name}.py") in done.stderr


def test_a_script_that_was_copied_names_it_too(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    (tmp_path / "cli_demo.py").write_text((ROOT / "cli_demo.py").read_text("utf-8"), "utf-8")
    done = run(tmp_path / "cli_demo.py", "--help")
    assert (done.returncode, done.stdout) == (cli.FAILED, "")
    assert str(tmp_path / "model.py") in done.stderr


def test_the_scripts_find_our_packages_from_any_directory(tmp_path: Path) -> None:
    for name in (*cli.PACKAGES, "visualglm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    done = run(ROOT / "cli_demo.py", "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "absent", "extra"),
    [
        ("web", "gradio", "web"),
        ("serve", "fastapi", "serve"),
        ("mcp", "mcp", "mcp"),
        ("finetune", "sat", "train"),
        ("merge", "sat", "train"),
        ("compare", "sat", "sat"),
    ],
)
def test_missing_modules_are_reported_with_the_install_command(name: str, absent: str, extra: str) -> None:
    done = run_without([absent], name, "--help")
    assert (done.returncode, done.stdout) == (cli.FAILED, "")
    assert done.stderr.startswith(f"error: {absent} ")
    assert f"[{extra}]" in done.stderr.partition("pip install ")[2]


def test_chat_without_sat_uses_the_hugging_face_model() -> None:
    options = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--temperature", "0"]
    question = ["--image", "examples/scene.png", "--query", "How many objects are there?"]
    done = run_without(["sat"], "chat", *options, *question)
    assert (done.returncode, done.stdout) == (0, "There are three objects in the picture.\n")
    assert "[sat]" in done.stderr.partition("pip install ")[2]


@pytest.mark.parametrize("hf", [True, False])
def test_the_implementation_can_be_chosen(hf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load_hf", "hf")
    monkeypatch.setattr(model, "load_sat", "sat")
    assert arguments.choose_loader(hf, None) == ("hf" if hf else "sat")

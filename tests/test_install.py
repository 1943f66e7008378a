"""Both documented ways to install, each in a fresh environment, each ending in a chat."""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.web_program import running_page

ROOT = Path(__file__).parents[1]
DESCRIPTION = "黑色的圆环在右上角，紫色的小汽车在右边，红色的星星在左下角。"
pytestmark = pytest.mark.slow


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command as on a machine that has nothing of ours; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the files that git tracks, as they are now."""
    names = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines()
    for name in names:
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, target)
    return tmp_path / "clone"


def make_environment(folder: Path) -> Path:
    """Make a fresh virtual environment; return its interpreter."""
    run([sys.executable, "-m", "venv", folder / ".venv"], folder)
    return folder / ".venv" / "bin" / "python"


def test_requirements_with_training(clone: Path) -> None:
    python = make_environment(clone)
    run([python, "-m", "pip", "install", "-q", "-r", "requirements.txt", "-c", "constraints.txt"], clone)
    options = ["--from_pretrained", "visualglm-tiny", "--image", "examples/scene.png", "--temperature", "0"]
    assert DESCRIPTION in run([python, "cli_demo.py", *options, "--query", "描述这张图片。"], clone)
    light = "import model, sys; print('deepspeed' in sys.modules, __import__('importlib').util.find_spec('deepspeed'))"
    loaded, spec = run([python, "-c", light], clone).strip().split(" ", 1)
    assert loaded == "False"
    assert spec.startswith("ModuleSpec")


def test_requirements_for_inference_then_sat_alone(clone: Path) -> None:
    """These are the commands of `make chat`, here with no terminal on its input."""
    printed = run(["make", "chat", f"PYTHON={sys.executable}"], clone)
    assert DESCRIPTION in printed
    assert "图片中一共有三个物体。" in printed
    assert "the purple car is on the right" in printed
    assert "There are three objects in the picture." in printed


def test_the_web_page_starts_from_a_bare_clone(clone: Path) -> None:
    command = ["make", "web", f"PYTHON={sys.executable}"]
    with running_page(command, cwd=clone, PYTHONPATH="") as url, urllib.request.urlopen(url) as page:
        assert b"VisualGLM" in page.read()

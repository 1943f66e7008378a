"""Every documented installation, each in a fresh environment, each ending with a chat."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tests.helpers.cli_program import PATIENCE
from tests.helpers.web_program import running_page
from visualglm.web.examples import EXAMPLES

ROOT = Path(__file__).parents[2]
DESCRIPTION = "黑色的圆环在右上角，紫色的小汽车在右边，红色的星星在左下角。"
TINY = ["--from_pretrained", "visualglm-tiny", "--device", "cpu"]
PACKAGES = {"model", "finetune", "visualglm"}
pytestmark = pytest.mark.slow


def bare_environment() -> dict[str, str]:
    """Return the environment variables outside a virtual environment.

    pip would compile all files of all packages, which takes a minute; so the programs compile those that they import.
    """
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, "PIP_COMPILE": "0"}


def run(command: list[str | Path], folder: Path, typed: str = "") -> str:
    """Run a command without our environment; return its output."""
    settings: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, cwd=folder, env=bare_environment(), input=typed, **settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the files that git tracks, in their current state."""
    names = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines()
    for name in names:
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, target)
    return tmp_path / "clone"


def make_environment(folder: Path) -> Path:
    """Create a fresh virtual environment; return its interpreter."""
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


def test_make_installs_for_the_chat_then_for_the_web_page(clone: Path) -> None:
    printed = run(["make", "chat", f"PYTHON={sys.executable}"], clone)
    assert DESCRIPTION in printed
    assert "图片中一共有三个物体。" in printed
    assert "the purple car is on the right" in printed
    assert "There are three objects in the picture." in printed
    command = ["make", "web", f"PYTHON={sys.executable}"]
    with running_page(command, cwd=clone, PYTHONPATH="") as url, urllib.request.urlopen(url) as page:
        assert b"VisualGLM" in page.read()


def test_a_wheel_with_the_versions_that_pip_resolves(clone: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.py").write_text("raise SystemExit('not ours')")  # the console program must not import this
    shutil.copy(ROOT / "examples" / "scene.png", elsewhere)
    wheel = build_wheel(clone, elsewhere)
    shutil.rmtree(clone)
    python = make_environment(elsewhere)
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    run([python, "-m", "pip", "install", "-q", f"{wheel}[web,serve,sat]", torch], elsewhere)
    program = python.with_name("visualglm")

    dialogue = "scene.png\n图片里有几个物体？\nstop\n"
    assert "图片中一共有三个物体。" in run(
        [program, "chat", *TINY, "--temperature", "0", "--chinese"], elsewhere, dialogue
    )
    scene = "from visualglm.scenes import draw_scene; print(draw_scene(1).questions[1].answer['en'])"
    assert run([python, "-P", "-c", scene], elsewhere).startswith("There are ")
    page = (
        "import visualglm.web.examples as e; print(*[(e.EXAMPLES_FOLDER / x.name).stat().st_size for x in e.EXAMPLES])"
    )
    assert len(run([python, "-P", "-c", page], elsewhere).split()) == len(EXAMPLES)
    with serving([program, "serve", *TINY, "--port", "0"], elsewhere) as url:
        assert "黑色的圆环" in ask(url, "描述这张图片。", elsewhere / "scene.png")
    check_training(program, elsewhere)


def build_wheel(clone: Path, folder: Path) -> Path:
    """Build a wheel from a checkout; check its content, and that the checkout is unchanged."""
    before = sorted(clone.rglob("*"))
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, "."], clone)
    assert sorted(clone.rglob("*")) == before
    (wheel,) = folder.glob("visualglm-*.whl")
    names = set(ZipFile(wheel).namelist())
    sources = {str(path.relative_to(clone)) for name in PACKAGES for path in (clone / name).rglob("*.py")}
    data = {"model/former_names.toml", "visualglm/error_texts.toml", "finetune/rehearsal.toml"}
    data |= {f"{name}/py.typed" for name in PACKAGES}
    data |= {f"visualglm/web/examples/{example.name}" for example in EXAMPLES}
    for folder in ("scenes", "web/client"):
        paths = (clone / "visualglm" / folder).rglob("*")
        data |= {str(path.relative_to(clone)) for path in paths if path.is_file() and path.suffix != ".py"}
    weights = {str(path.relative_to(clone)) for path in (clone / "model" / "pretrained").rglob("*") if path.is_file()}
    others = {name for name in names if ".dist-info/" not in name}
    assert others == sources | data | weights
    return wheel


@contextmanager
def serving(command: list[str | Path], folder: Path) -> Iterator[str]:
    """Run the HTTP server; yield its URL when it is ready."""
    with subprocess.Popen(command, cwd=folder, env=bare_environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            port = next(line["port"] for line in map(json.loads, process.stderr) if line["event"] == "listening")
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(f"{url}/ready")
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def wait_until_ready(url: str) -> None:
    """Wait until the server is ready."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def ask(url: str, question: str, image: Path) -> str:
    """Return the server's answer to a question about an image."""
    body = {"image": base64.b64encode(image.read_bytes()).decode(), "text": question, "temperature": 0}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return str(json.load(response)["response"])


def check_training(program: Path, folder: Path) -> None:
    """Fine-tune for a few steps, and chat with the result."""
    rows = [{"img": "scene.png", "prompt": "背景是什么？", "label": "天空"}] * 2
    (folder / "dataset.json").write_text(json.dumps(rows), encoding="utf-8")
    run([program, "check-data", "dataset.json"], folder)
    settings = ["--use_lora", "--lora_rank", "2", "--train-iters", "2", "--batch-size", "1", "--save", "runs"]
    run([program, "finetune", *TINY, *settings, "--train-data", "dataset.json"], folder)
    (trained,) = (folder / "runs").iterdir()
    asked = ["--image", "scene.png", "--query", "背景是什么？"]
    assert run([program, "chat", "--from_pretrained", str(trained), "--device", "cpu", *asked], folder).strip()

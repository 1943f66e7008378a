"""`transformers serve` and `transformers chat` work on an exported directory."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.api_server import SCENE_URL, completion, events
from tests.helpers.ports import free_port
from tests.model.hf.test_export import make_export

START_S = 300.0
PROGRAM = "from transformers.cli.transformers import main; main()"
SETTINGS = {"CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1", "COLUMNS": "200"}


def start(*words: str, folder: Path, **changes: Any) -> subprocess.Popen[str]:
    """Start a command of the program `transformers`."""
    settings = {**os.environ, **SETTINGS, "HF_MODULES_CACHE": str(folder / "modules")}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], cwd=folder, env=settings, text=True, **changes)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of `transformers serve` on an exported directory; `model` is its name."""
    directory, port = str(make_export(tmp_path / "exported")), free_port()
    options = ("--trust-remote-code", "--device", "cpu", "--dtype", "float32", "--port", str(port))
    with (
        (tmp_path / "log").open("w") as log,
        start("serve", directory, *options, folder=tmp_path, stdout=log, stderr=log) as program,
        httpx.Client(base_url=f"http://localhost:{port}", timeout=START_S, trust_env=False) as client,
    ):
        try:
            end = time.monotonic() + START_S
            while not is_healthy(client):
                assert program.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.2)
            yield client
        finally:
            program.kill()


def is_healthy(client: httpx.Client) -> bool:
    """Return whether the server answers."""
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_transformers_serves_and_chats(served: httpx.Client, tmp_path: Path) -> None:
    question = {**completion("星星在哪里？", image=SCENE_URL, max_tokens=20), "model": str(tmp_path / "exported")}
    whole = served.post("/v1/chat/completions", json=question).json()["choices"][0]["message"]["content"]
    assert whole == "星星在左下角。"
    chunks = events(served.post("/v1/chat/completions", json={**question, "stream": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole
    words = ("chat", question["model"], str(served.base_url).rstrip("/"), "do_sample=False", "max_new_tokens=20")
    with start(*words, folder=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        printed, _ = program.communicate("你好\n!exit\n", timeout=START_S)
    assert "你好!" in printed

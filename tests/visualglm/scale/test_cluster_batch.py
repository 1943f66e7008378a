"""Bulk work on a Ray cluster of several nodes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data")

from model import SatChatModel
from tests.helpers.ray_cluster import add_node, ray_cluster
from visualglm.batch.tasks import Settings, Task
from visualglm.batch.work import Answerer

ROOT = Path(__file__).parents[3]
IMAGES = [str(ROOT / "examples" / name) for name in ("scene.png", "scene_2.png", "scene_3.png")]
QUESTION = "How many objects are there?"
ROWS = 100
PATIENCE_S = 300
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as started:
        for _ in range(2):
            add_node(started, num_cpus=1)
        yield started


@pytest.fixture(scope="module")
def answers(tiny_model: SatChatModel) -> dict[str, str]:
    """The answer to each image in one process."""
    tasks = [Task(image, n, image, {1: QUESTION}) for n, image in enumerate(IMAGES, 1)]
    settings = Settings("visualglm-tiny", sampling={"temperature": 0})
    return {result.task.key: result.answer for result in Answerer(settings, model=tiny_model).answer(tasks)}


def hear_interrupts() -> None:
    """Restore the default action of SIGINT, which processes of a background shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Batch:
    """The program on an input of ROWS rows, as a process."""

    def __init__(self, folder: Path, address: str, *flags: str) -> None:
        self.output = folder / "out.jsonl"
        rows = [json.dumps({"id": f"row {n}", "image": IMAGES[n % 3]}) for n in range(ROWS)]
        (folder / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
        words = f"batch --from_pretrained visualglm-tiny --temperature 0 --max-batch 4 --ray {address}".split()
        words += ["--input", str(folder / "in.jsonl"), "--output", str(self.output), "--question", QUESTION, *flags]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "visualglm", *words],
            **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=hear_interrupts,
        )

    def lines(self) -> list[dict[str, Any]]:
        text = self.output.read_text(encoding="utf-8") if self.output.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for_lines(self, count: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while len(self.lines()) < count:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.05)

    def finish(self) -> tuple[int, str]:
        text = self.process.communicate(timeout=PATIENCE_S)[0]
        return self.process.returncode, text


def test_killed_programs_and_nodes_cost_no_row_and_repeat_none(
    cluster: Any, answers: dict[str, str], tmp_path: Path
) -> None:
    first = Batch(tmp_path, cluster.address, "--cpus-a-worker", "1")
    first.wait_for_lines(10)
    os.kill(first.process.pid, signal.SIGKILL)
    first.finish()
    before = len(first.lines())
    assert before < ROWS
    second = Batch(tmp_path, cluster.address, "--cpus-a-worker", "1", "--send-images")
    second.wait_for_lines(before + 10)
    assert len(second.lines()) < ROWS
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    code, text = second.finish()
    assert code == 0, text
    lines = second.lines()
    assert sorted(line["id"] for line in lines) == sorted(f"row {n}" for n in range(ROWS))
    assert all(line["answer"] == answers[line["image"]] for line in lines)


def test_ctrl_c_ends_the_work_on_the_cluster(cluster: Any, tmp_path: Path) -> None:
    batch = Batch(tmp_path, cluster.address, "--cpus-a-worker", "1")
    batch.wait_for_lines(1)
    batch.process.send_signal(signal.SIGINT)
    code, text = batch.finish()
    assert code == 130
    assert "same command" in text
    assert "Traceback" not in text


def test_a_cluster_without_gpus_is_told(cluster: Any, tmp_path: Path) -> None:
    code, text = Batch(tmp_path, cluster.address).finish()
    assert code == 1
    assert "--cpus-a-worker" in text
    assert "Traceback" not in text

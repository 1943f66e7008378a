"""The program answers every row exactly once, also when it is killed, with several processes, and with bad rows."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model import SatChatModel, SettingError, VisualGLMError
from tests.helpers.cli_program import ROOT, environment, run_here
from visualglm.batch import processes
from visualglm.batch.bad_rows import RowError
from visualglm.batch.program import find_gpus
from visualglm.batch.rows import Columns, Input
from visualglm.batch.run import Run
from visualglm.batch.tasks import Result, Settings, Task
from visualglm.batch.work import Answerer

QUESTIONS = ["What is this?", "有几个物体？"]
SETTINGS = Settings("visualglm-tiny", {"device": "cpu"}, sampling={"max_new_tokens": 3, "seed": 1}, max_batch_size=4)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of twelve images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (32, 32), (20 * number, 90, 30)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def here(tiny_model: SatChatModel) -> Any:
    """The backend of this process, with a loaded model."""

    def answer(settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        yield from Answerer(settings, model=tiny_model).answer(tasks)

    return answer


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keys(path: Path) -> list[tuple[str, int]]:
    return sorted((line["key"], line["question_number"]) for line in lines(path))


def all_keys(images: Path) -> list[tuple[str, int]]:
    return sorted((path.name, number) for path in images.iterdir() for number in (1, 2))


def run(images: Path, backend: Any, settings: Settings = SETTINGS, **options: Any) -> Run:
    one = Run(settings, Input(images, QUESTIONS), images.parent / "out.jsonl", **options)
    one.finish(backend)
    return one


def test_every_question_of_every_row_is_answered_once(images: Path, here: Any, tiny_model: SatChatModel) -> None:
    done = run(images, here)
    output = images.parent / "out.jsonl"
    assert keys(output) == all_keys(images)
    assert all(line["answer"] and line["answer_tokens"] <= 3 for line in lines(output))
    assert "24 answers" in done.describe()
    assert "All 12 rows" in run(images, pytest.fail).describe()  # no backend is started
    assert keys(output) == all_keys(images)


def test_a_limit_can_be_raised(images: Path, here: Any) -> None:
    output = images.parent / "out.jsonl"
    run(images, here, limit=3)
    assert len(lines(output)) == 6
    run(images, here, limit=5)
    assert len(lines(output)) == 10
    run(images, here)
    assert keys(output) == all_keys(images)


def test_an_interrupted_run_goes_on(images: Path, here: Any) -> None:
    def interrupted(settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        for count, result in enumerate(here(settings, tasks)):
            if count == 7:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        run(images, interrupted)
    assert len(lines(images.parent / "out.jsonl")) == 7
    run(images, here)
    assert keys(images.parent / "out.jsonl") == all_keys(images)


def test_a_bad_row_ends_the_program_or_is_listed_and_tried_again(images: Path, here: Any) -> None:
    bad = images / "03.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40])
    output = images.parent / "out.jsonl"
    with pytest.raises(RowError, match=r"03\.png.*--skip-bad"):
        run(images, here)
    assert "1 row was left out" in run(images, here, skip_bad=True).describe()
    assert len(lines(output)) == 22
    [listed] = lines(images.parent / "out.jsonl.errors.jsonl")
    assert (listed["key"], listed["row"]) == ("03.png", 4)
    assert "03.png" in listed["error"]
    bad.write_bytes(whole)
    run(images, here, skip_bad=True)
    assert keys(output) == all_keys(images)
    assert not (images.parent / "out.jsonl.errors.jsonl").exists()


def test_a_question_that_is_too_long_is_told_with_its_row(tmp_path: Path, here: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"image": "", "question": "x " * 3000}) + '\n{"image": null, "question": "Hi?"}\n{}\n')
    rows = Input(path, [], Columns())
    done = Run(SETTINGS, rows, tmp_path / "out.jsonl", skip_bad=True)
    done.finish(here)
    assert [line["key"] for line in lines(tmp_path / "out.jsonl")] == ["2"]
    assert sorted(line["row"] for line in lines(tmp_path / "out.jsonl.errors.jsonl")) == [1, 3]


def command(images: Path) -> list[str]:
    """The command line of a run that takes some seconds."""
    arguments = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--input", str(images)]
    arguments += ["--output", str(images.parent / "out.jsonl"), "--max-batch", "2", "--seed", "1"]
    return ["-m", "visualglm", "batch", *arguments, *(word for text in QUESTIONS for word in ("--question", text))]


@pytest.mark.slow
def test_a_run_that_is_killed_twice_answers_every_row_exactly_once(images: Path) -> None:
    for number in range(12, 150):
        Image.new("RGB", (32, 32), (number, number // 2, 30)).save(images / f"{number:02}.png")
    output = images.parent / "out.jsonl"
    for enough in (20, 90):
        program = subprocess.Popen([sys.executable, *command(images)], cwd=ROOT, env=environment())
        while not output.exists() or output.read_bytes().count(b"\n") < enough:
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        program.wait()
        assert enough <= len(output.read_bytes().split(b"\n")) < 300
    done = run_here(command(images))
    assert done.returncode == 0, done.stderr
    assert keys(output) == all_keys(images)


@pytest.mark.slow
def test_several_processes_answer_every_row_once_also_if_one_dies(images: Path) -> None:
    started: list[processes.Worker] = []
    start = processes.start_worker

    def start_noted(settings: Settings, device: str) -> processes.Worker:
        started.append(start(settings, device))
        return started[-1]

    def killing(settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        for count, result in enumerate(processes.answer_in_processes(settings, tasks, ["cpu", "cpu"])):
            if count == 2:
                busy = next(worker for worker in started if worker.tasks)
                busy.process.kill()
            yield result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start_worker", start_noted)
        run(images, killing)
    assert len(started) == 2
    assert keys(images.parent / "out.jsonl") == all_keys(images)
    assert not any(worker.process.is_alive() for worker in started)


@pytest.mark.slow
def test_an_error_in_all_processes_is_told(images: Path) -> None:
    in_processes = partial(processes.answer_in_processes, devices=["cpu"])
    with pytest.raises(VisualGLMError, match="top_k"):
        list(in_processes(Settings("visualglm-tiny", sampling={"top_k": -1}), [Task("a", 1, None, {1: "Hi?"})]))


@pytest.mark.parametrize(("wanted", "devices"), [("all", [0, 1, 2, 3]), ("2", [0, 1]), ("0,3", [0, 3]), ("1,", None)])
def test_gpus_are_named_by_number_or_index(
    monkeypatch: pytest.MonkeyPatch, wanted: str, devices: list[int] | None
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    if devices is None:
        with pytest.raises(SettingError, match="indices"):
            find_gpus(wanted)
    else:
        assert find_gpus(wanted) == [f"cuda:{number}" for number in devices]


@pytest.mark.parametrize("wanted", ["5", "0,9", "0", "-1", "1,1"])
def test_gpus_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(SettingError, match="4 GPUs"):
        find_gpus(wanted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "o.jsonl"], "--input"),
        (["--input", "examples"], "--output"),
        (["--input", "examples", "--output", "o.jsonl", "--question", " "], "--question"),
        (["--input", "examples", "--output", "o.jsonl", "--question", "?", "--limit", "0"], "--limit"),
        (["--input", "examples", "--output", "o.jsonl", "--question", "?", "--top_k", "-1"], "top_k"),
        (["--input", "examples", "--output", "examples", "--question", "?"], "is a folder"),
        (["--input", "examples", "--output", "o.jsonl"], "--question"),
    ],
)
def test_a_mistake_of_the_command_line_is_told(arguments: list[str], words: str) -> None:
    done = run_here(["-m", "visualglm", "batch", "--from_pretrained", "visualglm-tiny", *arguments])
    assert done.returncode == 2
    assert words in done.stderr

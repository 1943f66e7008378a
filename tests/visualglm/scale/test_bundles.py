"""Bundles of tasks on their way to a node and back."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

pytest.importorskip("ray.data")

from visualglm.batch.tasks import Result, Settings, Task
from visualglm.scale import feed as feed_module
from visualglm.scale.bundles import BundleAnswerer, Expectation, pack_tasks, restore_results
from visualglm.scale.cluster_batch import count_rows, make_portable
from visualglm.scale.errors import ClusterError
from visualglm.scale.feed import END, START, TaskFeed, read_bundles, read_image
from visualglm.scale.version import code_digest


class LocalQueue:
    """A queue in this process with the calls of Ray's."""

    def __init__(self, *_: Any) -> None:
        self.items: list[bytes] = []

    def put(self, item: bytes, timeout: float = 0) -> None:
        self.items.append(item)

    def get(self) -> bytes:
        return self.items.pop(0)


@pytest.fixture
def local_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "Queue", LocalQueue)


def make_tasks(count: int, image: str | bytes | None = None) -> list[Task]:
    return [Task(f"key {n}", n, image, {1: "A?", 2: "B?"}, {"n": n}) for n in range(1, count + 1)]


class Echo:
    """Answers with the key and the question."""

    def answer(self, tasks: list[Task]) -> Iterator[Result]:
        for task in reversed(tasks):
            for number, question in task.questions.items():
                yield Result(task, number, f"{task.key}: {question}")


def echo_answerer(monkeypatch: pytest.MonkeyPatch) -> BundleAnswerer:
    monkeypatch.setattr(BundleAnswerer, "_load", lambda self, settings: Echo())
    return BundleAnswerer(Settings("any"), Expectation(code_digest(), None))


def test_each_task_gets_its_answers_with_its_columns(local_queue: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make_tasks(7)
    sent = TaskFeed(tasks, 3, send_images=False)
    sent._run()
    answerer = echo_answerer(monkeypatch)
    results = [
        result for block in read_bundles(sent.queue) for result in restore_results(sent.unanswered, answerer(block))
    ]
    expected = {(task.key, n): f"{task.key}: {text}" for task in tasks for n, text in task.questions.items()}
    assert {(result.task.key, result.question): result.answer for result in results} == expected
    assert [result.task for result in results if result.question == 1] == [tasks[i] for i in (2, 1, 0, 5, 4, 3, 6)]
    assert sent.unanswered == {}


def test_answers_that_arrive_twice_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make_tasks(2)
    block = echo_answerer(monkeypatch)(pyarrow.table({"tasks": [pack_tasks(0, tasks)]}))
    unanswered = {0: tasks}
    assert len(list(restore_results(unanswered, block))) == 4
    assert list(restore_results(unanswered, block)) == []


def test_the_columns_stay_at_home() -> None:
    assert b"secret" not in pack_tasks(0, [Task("a", 1, None, {1: "A?"}, {"other": "secret"})])


def test_images_are_sent_on_request_and_do_not_come_back(
    local_queue: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"content of the file")
    sent = TaskFeed(make_tasks(1, str(image)), 4, send_images=True)
    sent._run()
    (block,) = read_bundles(sent.queue)
    assert pickle.loads(block["tasks"][0].as_py())[1][0].image == b"content of the file"
    answered = echo_answerer(monkeypatch)(block)
    assert b"content" not in answered["answers"][0].as_py()
    assert {result.task.image for result in restore_results(sent.unanswered, answered)} == {str(image)}


def test_an_image_that_is_missing_here_keeps_its_path() -> None:
    (task,) = make_tasks(1, "/no/such.png")
    assert read_image(task) == task


def test_an_error_of_the_input_ends_the_stream_after_the_tasks_before(local_queue: None) -> None:
    def broken() -> Iterator[Task]:
        yield from make_tasks(4)
        raise ValueError("row 5")

    sent = TaskFeed(broken(), 2, send_images=False)
    sent._run()
    assert len(list(read_bundles(sent.queue))) == 2
    assert str(sent.error) == "row 5"


def test_the_tasks_are_read_lazily_and_no_more_once_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullQueue(LocalQueue):
        def put(self, item: bytes, timeout: float = 0) -> None:
            if len(self.items) == 3:
                sent._stopped.set()
                raise feed_module.Full
            super().put(item)

    monkeypatch.setattr(feed_module, "Queue", FullQueue)
    read = []
    sent = TaskFeed((read.append(task.number) or task for task in make_tasks(1000)), 5, send_images=False)
    sent.start()
    sent.stop()
    assert len(read) == 15


def test_a_second_reader_would_lose_tasks_and_is_refused() -> None:
    queue = LocalQueue()
    queue.items = [START, b"", END]
    reader = read_bundles(queue)
    next(reader)
    with pytest.raises(RuntimeError, match="second time"):
        next(read_bundles(queue))


@pytest.mark.parametrize(
    "settings, digest, words",
    [(Settings("/no/such/model"), None, "/no/such/model"), (Settings("visualglm-tiny"), "0123", "another version")],
)
def test_a_node_that_cannot_answer_says_why(settings: Settings, digest: str | None, words: str) -> None:
    answerer = BundleAnswerer(settings, Expectation(digest or code_digest(), None))
    tasks = make_tasks(1)
    block = answerer(pyarrow.table({"tasks": [pack_tasks(0, tasks)]}))
    with pytest.raises(ClusterError, match=rf"Node [\d.]+.*{words}"):
        list(restore_results({0: tasks}, block))


def test_a_bundle_fills_a_batch_with_its_questions() -> None:
    assert count_rows(Settings("any", max_batch_size=64), make_tasks(5)) == 32
    assert count_rows(Settings("any", max_batch_size=1), make_tasks(5)) == 1


def test_a_model_in_a_directory_is_named_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = make_portable(Settings("mine", {"base": "visualglm-tiny", "quant": 8}), "cuda")
    assert settings.model == str(tmp_path / "mine")
    assert settings.loading == {"base": "visualglm-tiny", "quant": 8, "device": "cuda"}

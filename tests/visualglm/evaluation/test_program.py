"""The program asks all questions, continues, reports, compares, and marks a model that does not look."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext as does_not_raise
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.api_server import SCENE
from visualglm.batch.program import answer_here
from visualglm.batch.tasks import Result, Settings, Task
from visualglm.evaluation import program
from visualglm.evaluation.data import draw_questions
from visualglm.evaluation.question_tasks import CONDITION, OWN, QUESTION_KEY

Answer = Callable[[Task], str]
SCENES = "scenes:6"
TRUTH = {question.key: question.answers[0] for question in draw_questions(6)}


def looking(task: Task) -> str:
    """Answer rightly about the own image, and otherwise wrongly."""
    return TRUTH[task.columns[QUESTION_KEY]] if task.columns[CONDITION] == OWN else "no idea"


def blind(task: Task) -> str:
    """Answer the same about any image."""
    return TRUTH[task.columns[QUESTION_KEY]] if task.number % 2 else "yes"


class Backend:
    """Answers by a function; it stops after a number of answers, as a killed program does."""

    def __init__(self, answer: Answer, stop_after: int | None = None) -> None:
        self.answer = answer
        self.left = stop_after
        self.asked: list[str] = []

    def __call__(self, settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        for task in tasks:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            self.asked.append(task.key)
            yield Result(task, 1, self.answer(task), "stop", 5, 2, logprob=-0.1)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A function that runs the program with a backend."""

    def run(backend: Any, *words: str) -> int:
        monkeypatch.setattr(program, "choose_backend", lambda *_: backend)
        monkeypatch.setattr(sys, "argv", ["visualglm evaluate", "visualglm-tiny", "--device", "cpu", *words])
        return program.main()

    return run


def read_report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def test_a_model_that_looks_is_told_from_one_that_does_not(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, answer in (("looking", looking), ("blind", blind)):
        assert evaluate(Backend(answer), "--data", SCENES, "--output", str(tmp_path / name)) == 0
        assert ("NOT LOOKING" in capsys.readouterr().out) == (name == "blind")
        report = read_report(tmp_path / name)
        controls = report["metrics"]["exact_match"]["controls"]
        assert {*controls} == {"swapped", "without"}
        assert controls["without"]["is_blind"] == (name == "blind")
        assert 0 < controls["swapped"]["pairs"] <= report["settings"]["swapped_pairs"] < report["questions"]
    assert read_report(tmp_path / "looking")["metrics"]["exact_match"]["scores"]["exact_match"]["value"] == 100
    assert "<svg" in (tmp_path / "looking" / "report.html").read_text(encoding="utf-8")


def answer_without_images(settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
    """Answer with the model itself, but hide all images from it."""
    yield from answer_here(settings, (replace(task, image=None) for task in tasks))


@pytest.mark.slow
@pytest.mark.parametrize("backend", [answer_here, answer_without_images])
def test_visualglm_tiny_is_marked_only_without_its_images(
    backend: Any, evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(backend, "--data", SCENES, "--output", str(tmp_path / "run")) == 0
    is_blind = backend is answer_without_images
    result = read_report(tmp_path / "run")["metrics"]["exact_match"]
    assert {name: control["is_blind"] for name, control in result["controls"].items()} == {
        "swapped": is_blind,
        "without": is_blind,
    }
    assert (result["scores"]["exact_match"]["value"] > 90) != is_blind
    assert capsys.readouterr().out.count("NOT LOOKING") == 2 * is_blind


@pytest.mark.slow
def test_right_answers_rely_on_their_images(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", SCENES, "--limit", "12", "--no-controls", "--reliance", "--output", str(tmp_path / "run"))
    assert evaluate(answer_here, *words) == 0
    assert "reliance, nats" in capsys.readouterr().out
    result = read_report(tmp_path / "run")
    groups = result["metrics"]["exact_match"]["reliance"]["groups"]
    assert sum(group["count"] for group in groups) == result["questions"]
    assert sum(group["count"] for group in groups if (group["low"] or 0) >= 2) > result["questions"] / 4
    again = Backend(looking)
    assert evaluate(again, *words) == 0
    assert again.asked == []  # the scores are kept


def test_a_stopped_run_goes_on_and_asks_nothing_twice(evaluate: Callable[..., int], tmp_path: Path) -> None:
    words = ["--data", SCENES, "--output", str(tmp_path / "run")]
    backends = [Backend(looking, 50), Backend(looking), Backend(looking)]
    statuses = [evaluate(backend, *words) for backend in backends]
    assert statuses[0] != 0 and statuses[1:] == [0, 0]
    asked = [key for backend in backends for key in backend.asked]
    assert len(asked) == len({*asked}) and not backends[2].asked
    assert len(asked) == len((tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8").splitlines())


def test_other_questions_and_settings_are_refused(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output", str(tmp_path / "run"), "--no-controls"]
    assert evaluate(Backend(looking), "--data", "scenes:2", *words) == 0
    for other in (["--data", "scenes:3"], ["--data", "scenes:2", "--max_new_tokens", "3"]):
        assert evaluate(Backend(looking), *other, *words) != 0
        assert "another run" in capsys.readouterr().err


def test_two_evaluations_are_compared(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", SCENES, "--no-controls", "--output"]
    assert evaluate(Backend(blind), *words, str(tmp_path / "other")) == 0
    assert evaluate(Backend(looking), *words, str(tmp_path / "own"), "--against", str(tmp_path / "other")) == 0
    assert "McNemar" in capsys.readouterr().out


def test_files_are_asked_with_the_model_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"question_id": number, "image": SCENE.name, "text": f"Is there a {thing} in the image?", "label": label}
        for number, (thing, label) in enumerate([("star", "yes"), ("car", "yes"), ("house", "no")])
    ]
    file = tmp_path / "pope.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--data", str(file), "--images", str(SCENE.parent), "--output", str(tmp_path / "run"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["visualglm evaluate", "visualglm-tiny", *words])
    assert program.main() == 0
    report = read_report(tmp_path / "run")
    assert report["settings"]["task"] == "pope"
    assert report["metrics"]["pope"]["scores"]["accuracy"]["value"] == 100
    assert report["metrics"]["pope"]["calibration"]["count"] == 3


@pytest.fixture
def captions(tmp_path: Path) -> list[str]:
    """Return the flags of a file of captions of one image, and of a list of objects."""
    content = {
        "images": [{"id": 1, "file_name": SCENE.name}],
        "annotations": [{"image_id": 1, "caption": "A red car next to a dog."}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "objects.txt").write_text("car\ndog\nhouse, cottage\n", encoding="utf-8")
    data, objects = str(tmp_path / "captions.json"), str(tmp_path / "objects.txt")
    return ["--data", data, "--images", str(SCENE.parent), "--objects", objects, "--output", str(tmp_path / "run")]


def test_chair_is_added_to_the_metrics_of_captions(
    evaluate: Callable[..., int], tmp_path: Path, captions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(Backend(lambda task: "A car and a cottage."), *captions, "--metric", "rouge_l") == 0
    metrics = read_report(tmp_path / "run")["metrics"]
    assert {*metrics} == {"rouge_l", "chair"}
    scores = {name: score["value"] for name, score in metrics["chair"]["scores"].items()}
    assert scores == {"chair_i": 50, "chair_s": 100, "recall": 50}
    assert "chair_s" in capsys.readouterr().out


def test_chair_without_captions_is_refused(
    evaluate: Callable[..., int], tmp_path: Path, captions: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Backend(looking)
    assert evaluate(backend, *captions, "--data", SCENES) != 0
    assert "captions" in capsys.readouterr().err
    (tmp_path / "objects.txt").write_text("zebra\n", encoding="utf-8")
    assert evaluate(backend, *captions) != 0
    assert "--objects" in capsys.readouterr().err
    (tmp_path / "objects.txt").unlink()
    assert evaluate(backend, *captions) != 0
    assert "objects.txt" in capsys.readouterr().err
    assert not backend.asked


class SeededBackend(Backend):
    """Answers rightly, but with each sampling seed wrongly to as many questions as the seed says."""

    def __call__(self, settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        seed = settings.sampling.get("seed", 0)
        assert (settings.sampling.get("temperature"), seed > 0) in ((0, False), (0.8, True))
        for result in super().__call__(settings, tasks):
            yield replace(result, answer="no idea") if result.task.number <= seed else result


def test_sampling_seeds_give_a_mean_with_an_interval(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "scenes:2", "--seeds", "3", "--temperature", "0.8", "--output", str(tmp_path / "run")]
    count = len(list(draw_questions(2)))
    stopped, backend = SeededBackend(looking, 4 * count), SeededBackend(looking)
    assert evaluate(stopped, *words) != 0  # the controls are asked first
    assert evaluate(backend, *words) == 0
    asked = len(stopped.asked) + len(backend.asked)
    report = read_report(tmp_path / "run")["metrics"]["exact_match"]
    controls = sum(control["pairs"] for control in report["controls"].values())
    assert asked == 4 * count + controls  # none was asked twice
    values = [100 * (count - seed) / count for seed in (1, 2, 3)]
    seeds = report["seeds"]["exact_match"]
    assert seeds["values"] == pytest.approx(values)
    assert seeds["mean"]["value"] == pytest.approx(values[1])
    assert seeds["mean"]["low"] < values[1] < seeds["mean"]["high"]
    assert report["scores"]["exact_match"]["value"] == 100
    assert "3 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "missing.json"], "does not exist"),
        (["--data", "scenes:no"], "number of scenes"),
        (["--data", "scenes:1", "--limit", "0"], "--limit"),
        (["--data", "scenes:1", "--gpus", "all"], "--gpus or --device"),
        (["--data", "scenes:1", "--temperature", "1"], "or: --temperature and --top_p need --seeds"),
        (["--data", "scenes:1", "--seeds", "2", "--top_p", "2"], "or: top_p is"),
    ],
)
def test_bad_arguments_say_what_to_do(
    words: list[str], message: str, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) if "--limit" in message or "or" in message else does_not_raise():
        assert evaluate(Backend(looking), *words) != 0
    assert message in capsys.readouterr().err

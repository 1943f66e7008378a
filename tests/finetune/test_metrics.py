"""Metrics of held-out answers during a training, and early stopping on them."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune import metrics as metrics_module
from finetune.checkpoints import Run
from finetune.evaluation import Score
from finetune.finetune_visualglm import main
from finetune.metrics import UNSUITABLE, AnsweredText, AnswerMetrics
from finetune.progress import LOG_NAME
from finetune.record import read_record
from finetune.trainer import Trainer
from finetune.training_state import TrainingState, parse_state
from model import SatChatModel, SettingError
from model.checkpoint.files import open_tensors
from tests.helpers.finetuning import SHORT, data, train  # noqa: F401
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.metrics import METRICS, metric as metric_module

ALL = ("exact_match", "vqa", "bleu", "rouge_l", "cider", "rouge", "chrf")
MAIN = ("exact_match", "vqa", "bleu_1", "rouge_l", "rouge_l_f1", "chrf")  # scores that are 100 for perfect answers
FLAGS = ("--use_lora", "--layer_range", "0", "--metric", "chrf", "--eval-interval", "1", "--save-interval", "1")


def texts(*pairs: tuple[str, str]) -> list[AnsweredText]:
    return [AnsweredText("What is it?", expected, answer) for expected, answer in pairs]


def evaluations_of(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / LOG_NAME).read_text(encoding="utf-8").splitlines()]
    return [record for record in records if "valid_loss" in record]


def test_metrics_of_text_have_full_scores_for_perfect_answers_and_less_for_others() -> None:
    metrics = AnswerMetrics(ALL)
    expected = ["A black cat sits on a chair.", "两只红色的球。", "one two three four five"]
    perfect = metrics.score(texts(*zip(expected, expected, strict=True)))
    worse = metrics.score(texts(*zip(expected, ["A black dog sits on a chair.", "两只红色的球。", ""], strict=True)))
    assert {name: perfect[name] for name in MAIN} == pytest.approx(dict.fromkeys(MAIN, 100))
    assert all(worse[name] < perfect[name] for name in perfect)


def test_every_usable_metric_names_its_main_score() -> None:
    for name in {*METRICS} - {*UNSUITABLE}:
        metrics = AnswerMetrics([name])
        assert metrics.main in metrics.score(texts(("yes", "yes"), ("No.", "yes")))


def test_answers_of_yes_and_no_are_scored_by_pope() -> None:
    scores = AnswerMetrics(["pope"]).score(texts(("Yes.", "Yes, it is."), ("no", "No."), ("No", "yes")))
    assert scores["pope_accuracy"] == pytest.approx(100 * 2 / 3)
    with pytest.raises(SettingError, match="yes or no"):
        AnswerMetrics(["pope"]).check(texts(("red", "red")))


@pytest.mark.parametrize("name", ["bleu5", "", *UNSUITABLE])
def test_an_unusable_metric_is_refused_with_the_usable_ones(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name}.*exact_match.*chrf") as raised:
        AnswerMetrics(["chrf", name])
    assert "mme," not in str(raised.value)


def test_a_missing_library_is_named_before_the_training(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(metric_module, "import_module", missing)
    flags = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), *SHORT, *FLAGS]
    assert main([*flags, "--valid-data", str(data), "--save", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "--metric chrf" in error
    assert "pip install" in error
    assert not (tmp_path / "runs").exists()


def test_a_later_answer_that_does_not_suit_the_metric_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data.json"
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [{"img": "broken.png", "prompt": "Is it red?", "label": "Yes."}, {"prompt": "Color?", "label": "Teal."}]
    file.write_text(json.dumps(rows), encoding="utf-8")
    flags = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(file), *SHORT]
    more = ["--use_lora", "--metric", "pope", "--valid-data", str(file), "--eval-answers", "1"]
    assert main([*flags, *more, "--save", str(tmp_path / "runs")]) == 2
    assert "Teal" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_programs_metrics_are_imported_only_if_one_is_asked_for(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    monkeypatch.setattr(metrics_module, "import_module", refuse)
    run = train(data, tmp_path, "--use_lora", "--valid-data", str(data), "--train-iters", "1")
    assert {"valid_loss", "valid_exact"} <= {*evaluations_of(run)[-1]}


@pytest.mark.parametrize("method", ["--use_lora", "--use_qlora", "--use_ptuning", "--full"])
def test_scores_are_logged_and_printed(
    method: str,
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = (method, "--valid-data", str(data), "--metric", "chrf", "bleu", "--train-iters", "1", "--eval-answers", "2")
    (record,) = evaluations_of(train(data, tmp_path, *flags))
    assert {"valid_exact", "valid_chrf", "valid_bleu_1", "valid_bleu_4"} <= {*record}
    assert 0 <= record["valid_chrf"] <= 100
    assert f"chrf {record['valid_chrf']:.1f}" in capsys.readouterr().err


def test_an_undefined_score_is_null_in_the_log(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AnswerMetrics, "score", lambda self, answered: {"chrf": math.nan})
    run = train(data, tmp_path, *FLAGS, "--valid-data", str(data))
    assert [record["valid_chrf"] for record in evaluations_of(run)] == [None, None]


def give_scores(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Have the evaluation after step N score `scores[N - 1]`, with an ever lower loss."""

    def evaluate(self: Trainer) -> Score:
        step = self.state.step
        return Score(1 / step, 0.0, [], {"chrf": scores[step - 1]})

    monkeypatch.setattr(Trainer, "evaluate", evaluate)


def test_a_training_stops_when_its_first_metric_no_longer_rises(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give_scores(monkeypatch, [10, 30, 20, 25, 40, 50])
    run = train(data, tmp_path, *FLAGS, "--valid-data", str(data), "--train-iters", "6", "--early-stop", "2")
    assert (run / "latest").read_text() == "4"
    assert "no higher chrf" in capsys.readouterr().err


def test_a_resumed_training_counts_on_and_stays_the_same(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_scores(monkeypatch, [30, 20, 25, 40, 50])
    flags = (*FLAGS, "--valid-data", str(data), "--train-iters", "5", "--early-stop", "2")
    straight = train(data, tmp_path / "straight", *flags)
    assert (straight / "latest").read_text() == "3"
    halted = Path(shutil.copytree(straight, tmp_path / "halted" / straight.name))
    shutil.rmtree(Run(halted, 9).folder(3))
    resumed = train(data, tmp_path / "halted", *flags, "--resume")
    assert (resumed / "latest").read_text() == "3"
    assert Run(resumed, 9).read_state(3) == Run(straight, 9).read_state(3)
    assert read_record(resumed)["numbers"]["best_valid_chrf"] == 30
    ours, theirs = (open_tensors(run / "3" / "weights.safetensors") for run in (resumed, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def make_state(**entries: Any) -> TrainingState:
    return TrainingState(step=1, examples=1, step_size=1, seed=0, processes=1, **entries)


def test_the_loss_decides_without_a_metric() -> None:
    state = make_state()
    counts = []
    for loss in (2.0, 1.0, 1.5, 1.0, 0.5):
        state.count_evaluation(loss)
        counts.append(state.worse)
    assert counts == [0, 0, 1, 2, 0]
    assert state.best_loss == 0.5


def test_an_undefined_score_is_not_the_best() -> None:
    state = make_state()
    counts = []
    for score in (math.nan, 1.0, math.nan, 0.5, 2.0):
        state.count_evaluation(1.0, "chrf", score)
        counts.append(state.worse)
    assert counts == [1, 0, 1, 2, 0]
    assert state.best_score == 2


def test_another_metric_starts_the_count_again() -> None:
    state = make_state(best_loss=1.0, worse=3)
    state.count_evaluation(2.0, "chrf", 5.0)
    assert (state.worse, state.best_score, state.best_loss) == (0, 5.0, 1.0)


def test_the_state_of_an_earlier_version_is_read() -> None:
    entries = {"step": 1, "examples": 1, "step_size": 1, "seed": 0, "processes": 1, "best_loss": 0.5, "worse": 2}
    state = parse_state(json.dumps(entries))
    assert (state.best_loss, state.worse, state.metric, state.best_score) == (0.5, 2, None, None)


@pytest.mark.parametrize("wrong", [{"best_score": "high"}, {"metric": 3}])
def test_a_state_with_a_wrong_entry_is_refused(wrong: dict[str, Any]) -> None:
    entries = {"step": 1, "examples": 1, "step_size": 1, "seed": 0, "processes": 1, **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        parse_state(json.dumps(entries))


def test_an_error_of_a_metric_names_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = AnswerMetrics(["chrf"])

    def fail(*_: Any) -> Any:
        raise EvaluationError("It cannot be computed.")

    monkeypatch.setattr(metrics, "_score_one", fail)
    with pytest.raises(SettingError, match="--metric chrf"):
        metrics.check(texts(("a", "a")))


def test_a_question_that_cannot_be_answered_has_an_empty_answer(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(model: Any, questions: Sequence[Any], *_: Any) -> list[SettingError]:
        return [SettingError("这张图片是红色的。") for _ in questions]

    monkeypatch.setattr(SatChatModel, "answer_batch", refuse)
    run = train(data, tmp_path, *FLAGS, "--valid-data", str(data), "--train-iters", "1")
    assert evaluations_of(run)[-1]["valid_chrf"] == 0

"""lmms-eval asks the questions of `visualglm evaluate`, and gets the same score."""

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from examples.lmms_eval import compare
from examples.lmms_eval.questions import write_questions
from visualglm.evaluation import program
from visualglm.evaluation.data import draw_questions, open_questions
from visualglm.evaluation.metrics import EXACT_MATCH

PYTHON = os.environ.get("LMMS_EVAL_PYTHON")  # an interpreter with lmms-eval


def test_both_programs_read_the_same_questions(tmp_path: Path) -> None:
    assert write_questions(tmp_path, 2) == len(list(draw_questions(2)))
    file = open_questions(tmp_path / "questions.jsonl")
    spec = spec_from_file_location("fields", tmp_path / "fields.py")
    assert file.task == "questions" and spec is not None and spec.loader is not None
    fields: Any = module_from_spec(spec)
    spec.loader.exec_module(fields)
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    for drawn, read, row in zip(draw_questions(2), file, rows, strict=True):
        assert drawn.text == read.text == fields.question(row)
        assert drawn.answers == read.answers == (fields.accepted_answer(row),)
        assert drawn.image is not None and read.image is not None
        (image,) = fields.load_images(row)
        assert drawn.image.load().tobytes() == read.image.load().tobytes() == image.tobytes()


def test_the_task_names_functions_and_files_that_exist(tmp_path: Path) -> None:
    write_questions(tmp_path, 1)

    class Loader(yaml.SafeLoader):
        """Reads the names of functions as text."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load((tmp_path / "tiny_scenes.yaml").read_text(encoding="utf-8"), Loader)
    assert (tmp_path / task["dataset_kwargs"]["data_files"][task["test_split"]]).is_file()
    functions = (tmp_path / "fields.py").read_text(encoding="utf-8")
    for name in ("doc_to_visual", "doc_to_text", "doc_to_target"):
        module, _, function = task[name].partition(".")
        assert module == "fields" and f"def {function}(" in functions
    (metric,) = task["metric_list"]
    assert metric["metric"] == EXACT_MATCH.name
    assert task["generation_kwargs"]["max_new_tokens"] == program.MAX_NEW_TOKENS["questions"]


def write_results(folder: Path, answers: list[str], score: float) -> None:
    """Write results as both programs write them."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    results = {"results": {"tiny_scenes": {"exact_match,none": score / 100}}}
    (folder / "model" / "1_results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [{"doc_id": number, "filtered_resps": answer} for number, answer in enumerate(answers)]
    lines = "".join(json.dumps(row) + "\n" for row in reversed(rows))
    (folder / "model" / "1_samples_tiny_scenes.jsonl").write_text(lines, encoding="utf-8")
    metrics = {"exact_match": {"scores": {"exact_match": {"value": score}}}}
    report = {"metrics": metrics, "answers": [{"answer": answer} for answer in answers]}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


@pytest.mark.parametrize(
    ("answers", "score", "status"), [(["a", "b"], 50.0, 0), (["a", "c"], 50.0, 1), (["a", "b"], 51.0, 1)]
)
def test_another_answer_or_score_is_a_difference(
    answers: list[str], score: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path / "own", ["a", "b"], 50.0)
    write_results(tmp_path / "other", answers, score)
    words = ["--visualglm", str(tmp_path / "own"), "--lmms-eval", str(tmp_path / "other")]
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    assert compare.main() == status


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="the variable LMMS_EVAL_PYTHON names no interpreter with lmms-eval")
def test_lmms_eval_gives_the_same_answers_and_score(
    tiny_server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, results, own = (tmp_path / name for name in ("scenes", "lmms", "own"))
    write_questions(scenes, 2)
    url = str(tiny_server.base_url).rstrip("/")
    arguments = f"model=visualglm-tiny,base_url={url}/v1,timeout=120,num_concurrent=4"
    words = ["--model", "openai_compatible", "--model_args", arguments, "--include_path", str(scenes)]
    words += ["--tasks", "tiny_scenes", "--batch_size", "1", "--log_samples", "--output_path", str(results)]
    offline = {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [str(PYTHON), "-m", "lmms_eval", *words]
    subprocess.run(command, env={**os.environ, **offline}, cwd=tmp_path, check=True, timeout=600)
    words = ["--server", url, "--data", str(scenes / "questions.jsonl"), "--output", str(own), "--no-controls"]
    monkeypatch.setattr(sys, "argv", ["visualglm evaluate", *words])
    assert program.main() == 0
    assert compare.read_lmms_eval(results) == compare.read_visualglm(own)

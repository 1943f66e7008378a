"""A dry run finds bad rows, answers a sample, and estimates the time; it writes nothing."""

import json
from pathlib import Path

import pytest

from model import SatChatModel
from tests.helpers.cli_program import run_here
from visualglm.batch.estimate import MAX_SAMPLE, check_rows, measure_speed
from visualglm.batch.progress import describe_duration
from visualglm.batch.rows import Input
from visualglm.batch.tasks import Settings
from visualglm.batch.work import Answerer


def test_rows_are_counted_and_missing_images_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    images = ["a.png", "absent.png", "https://example.org/a.png", ""]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"image": image}) + "\n" for image in images) + "{torn\n", encoding="utf-8")
    found = check_rows(Input(path, ["One?", "Two?"]))
    assert (found.rows, found.questions) == (3, 6)
    assert [row.number for row in found.bad] == [2, 5]
    assert "absent.png" in found.bad[0].reason
    assert check_rows(Input(path, ["One?"]), limit=1).rows == 1


def test_the_sample_is_drawn_from_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": ""}\n' * 3000, encoding="utf-8")
    found = check_rows(Input(path, ["One?"]))
    numbers = {task.number for task in found.sample}
    assert len(numbers) == len(found.sample) == MAX_SAMPLE
    assert min(numbers) < 1000 < 2000 < max(numbers)


def test_the_speed_is_measured_with_part_of_a_large_sample(tmp_path: Path, tiny_model: SatChatModel) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": ""}\n' * 200, encoding="utf-8")
    settings = Settings("visualglm-tiny", sampling={"max_new_tokens": 2}, max_batch_size=2)
    speed = measure_speed(Answerer(settings, model=tiny_model), check_rows(Input(path, ["One?"])).sample)
    assert speed.answers_per_s > 0
    assert all(result.answer for result in speed.results)


def test_a_dry_run_writes_nothing_and_tells_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('image\nabsent.png\n""\n', encoding="utf-8")
    arguments = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--input", str(tmp_path / "rows.csv")]
    arguments += ["--output", str(tmp_path / "out.jsonl"), "--question", "你好", "--dry-run"]
    done = run_here(["-m", "visualglm", "batch", *arguments])
    assert done.returncode == 1, done.stderr
    assert "row 1: The image" in done.stdout
    assert "All rows take about" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    assert run_here(["-m", "visualglm", "batch", *arguments, "--skip-bad"]).returncode == 0


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 second"), (90, "90 seconds"), (3300, "55 minutes"), (3e5, "3 days")]
)
def test_durations_are_told_in_fitting_units(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words

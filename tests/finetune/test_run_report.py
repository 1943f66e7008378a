"""The report that a training writes into its run: curves, numbers, settings and sample answers."""

import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from finetune import progress as progress_module
from finetune.checkpoints import Run
from finetune.record import read_record
from finetune.run_report import CURVES_NAME, REPORT_NAME, Progress, describe_time, write_run_report
from tests.finetune.test_run_log import losses, write_log
from tests.helpers.browser import BROWSER_TESTS, chromium  # noqa: F401
from tests.helpers.finetuning import COLORS, QUESTION, data, train  # noqa: F401

FLAGS = ("--use_lora", "--layer_range", "0", "--eval-answers", "3")
VOID = {"meta", "img", "link", "br"}


class Checker(HTMLParser):
    """Collects elements, and checks that each one is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_report(run: Path) -> str:
    return (run / REPORT_NAME).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A finished run with an evaluation. Do not change it."""
    return train(data, tmp_path_factory.mktemp("finished"), *FLAGS, "--valid-data", str(data), "--metric", "chrf")


def test_a_finished_run_has_a_report_that_needs_nothing_else(finished: Path) -> None:
    page = read_report(finished)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in checker.seen
    assert not re.search(r'(src|href)="(?!data:)', page)
    for words in ("Complete: step 2 of 2", "chrf (%)", "held-out loss", "layer_range", "visualglm-tiny", QUESTION):
        assert words in page
    assert page.count("data:image/jpeg") == len(COLORS)  # the images of the sample answers
    assert len(list(ET.fromstring((finished / CURVES_NAME).read_text(encoding="utf-8")))) > 5


def test_settings_with_other_values_than_the_default_come_first(finished: Path) -> None:
    before, others = read_report(finished).split("<details>")
    for name in ("use_lora", "train_data", "metric"):
        assert f"<th>{name}</th>" in before
    for name in ("weight_decay", "use_qlora"):
        assert f"<th>{name}</th>" in others
        assert f"<th>{name}</th>" not in before


def test_a_report_is_written_at_each_save(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[Progress] = []
    monkeypatch.setattr(progress_module, "write_run_report", lambda *given: written.append(given[-1]))
    train(data, tmp_path, *FLAGS, "--train-iters", "3", "--save-interval", "1")
    assert [(progress.step, progress.is_complete) for progress in written] == [(1, False), (2, False), (3, True)]


def test_a_resumed_run_says_so_and_keeps_the_curve(finished: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Path(shutil.copytree(finished, tmp_path / finished.name))
    flags = [*FLAGS, "--valid-data", str(data), "--metric", "chrf", "--train-iters", "4", "--resume"]
    assert train(data, tmp_path, *flags) == run
    page = read_report(run)
    earlier, _ = read_record(run)["sessions"]
    assert "resumed after step 2" in page
    assert f"{describe_time(earlier['seconds'])} before" in page
    assert "step 1:" in page  # the tooltip of a point that the first training logged


def test_resuming_a_complete_run_leaves_its_report(finished: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = Path(shutil.copytree(finished, tmp_path / finished.name))
    before = read_report(run)
    train(data, tmp_path, *FLAGS, "--valid-data", str(data), "--metric", "chrf", "--resume")
    assert read_report(run) == before


@pytest.mark.parametrize("name", [CURVES_NAME, REPORT_NAME])
def test_a_failed_report_does_not_end_the_training(
    name: str,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = write_run_report

    def write_to_a_directory(run: Path, *more: Any) -> None:
        (run / name).mkdir(exist_ok=True)
        write(run, *more)

    monkeypatch.setattr(progress_module, "write_run_report", write_to_a_directory)
    run = train(data, tmp_path, *FLAGS, "--train-iters", "2", "--save-interval", "1")
    assert Run(run, 9).steps() == [1, 2]
    assert capsys.readouterr().err.count("report of the run cannot be written") == 2


def test_a_run_without_numbers_or_readable_images_has_a_report(tmp_path: Path) -> None:
    samples = {"samples": [["<q>", "e", "a"], "broken"], "sample_images": ["gone.png", 3]}
    for run, records in ((tmp_path / "empty", []), (tmp_path / "some", [*losses(1), {"step": 1, **samples}])):
        write_run_report(write_log(run, *records), {}, Progress(0, 1, 9, 3700.0))
        page = read_report(run)
        assert "1:01:40" in page
        assert "Not complete" in page
    assert "&lt;q&gt;" in page
    assert not (tmp_path / "empty" / CURVES_NAME).exists()


class TestInABrowser:
    pytestmark = BROWSER_TESTS

    @pytest.mark.parametrize("width", [360, 1280])
    def test_the_report_fits_the_window_without_scripts_or_the_network(
        self,
        width: int,
        finished: Path,
        chromium: Any,  # noqa: F811
    ) -> None:
        context = chromium.new_context(viewport={"width": width, "height": 900}, offline=True, java_script_enabled=True)
        page = context.new_page()
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto((finished / REPORT_NAME).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("svg").count() >= 4
        assert [url for url in outside if not url.startswith(("data:", "file:"))] == []
        context.close()

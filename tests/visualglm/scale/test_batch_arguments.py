"""The flags of `visualglm batch` for a Ray cluster."""

import sys

import pytest

from model import SettingError
from visualglm.batch import program
from visualglm.scale.batch_arguments import parse_workers

BASE = ["batch", "--input", "in", "--output", "out.jsonl", "--question", "What is this?"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--send-images"], "--send-images needs --ray"),
        (["--cpus-a-worker", "2"], "--cpus-a-worker needs --ray"),
        (["--ray", "auto", "--device", "cpu"], "--cpus-a-worker"),
        (["--ray", "auto", "--cpus-a-worker", "-1"], "at least 1"),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(
    flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", BASE + flags)
    with pytest.raises(SystemExit):
        program.parse_arguments()
    assert words in capsys.readouterr().err


def test_the_number_of_workers_is_that_of_the_gpus() -> None:
    assert (parse_workers(None), parse_workers("all"), parse_workers("8")) == (None, None, 8)
    with pytest.raises(SettingError, match="number of GPUs"):
        parse_workers("0,2")

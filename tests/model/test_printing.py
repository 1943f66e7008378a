"""All programs print through one function that removes terminal control characters."""

import ast
import json
import logging
import unicodedata
from pathlib import Path

import pytest

from model import CheckpointError
from model.checkpoint import convert
from model.command_line import escape_unprintable, make_printable, print_text
from tests.helpers.cli_program import ROOT, TINY, run_program
from tests.visualglm.terminal.test_cli_demo import ScriptedModel, done, talk
from visualglm.server.request_log import JsonFormatter

ATTACK = "\x1b]0;title\x07\x9b2J\r\u202egnp\u2066x\u200f\u061c\x7f\udc80"
PROGRAMS = ("model", "visualglm", "finetune")
CONSOLE = ROOT / "visualglm" / "cli.py"  # prints with `!a` before it knows which `model` is imported


def test_only_newlines_and_tabs_of_the_control_characters_are_printed() -> None:
    everything = "".join(map(chr, range(0x11_0000)))
    changed = {a for a, b in zip(everything, make_printable(everything), strict=True) if a != b}
    controls = {character for character in everything if unicodedata.category(character) in ("Cc", "Cs")}
    directions = {
        character
        for character in everything
        if unicodedata.bidirectional(character) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    }
    assert changed == (controls - {"\n", "\t"}) | directions | {"\u200e", "\u200f", "\u061c"}


@pytest.mark.parametrize(
    "text", ["图片中有猫。\n\tA cat", "👨\u200d👩\u200d👧 🏳️\u200d🌈 é", "مرحبا שלום", "\u3000\xa0\u200b"]
)
def test_printable_text_is_unchanged(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_text(text, 5, sep="|", end="")
    assert capsys.readouterr().out == f"{text}|5"


@pytest.mark.parametrize(
    "path",
    [
        *sorted(path for part in PROGRAMS for path in (ROOT / part).rglob("*.py") if path != CONSOLE),
        *sorted(ROOT.glob("*.py")),
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_programs_print_by_one_function(path: Path) -> None:
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert len(lines) == (1 if path == ROOT / "model" / "command_line.py" else 0), lines


def test_a_conversation_prints_no_control_characters_of_answers_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    talk(ScriptedModel(done(f"answer{ATTACK}"), [CheckpointError(f"error{ATTACK}")]), "one", "two")
    out = capsys.readouterr().out
    assert "answer" in out
    assert "error" in out
    assert not set(ATTACK) & set(out) - set("0;title2Jgnpx]?")


def test_a_piped_conversation_has_no_control_characters() -> None:
    typed = f"\n{ATTACK}\n".encode("utf-8", "surrogateescape")
    finished = run_program([*TINY], typed=typed)
    assert finished.returncode == 0, finished.stderr
    text = finished.stdout.decode("utf-8")
    assert "title" in text
    assert text == make_printable(text)


def test_convert_prints_names_without_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model\x1b[31m\u202e"
    folder.mkdir()
    (folder / "config.json").write_text("{")
    assert convert.main([str(folder), str(tmp_path / "out"), "--to", "sat"]) == 1
    shown = capsys.readouterr().err
    assert "model" in shown
    assert shown == make_printable(shown)


def test_the_server_log_escapes_control_characters() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 1, f"{ATTACK}猫", None, None)
    line = JsonFormatter(with_text=True).format(record)
    assert line == make_printable(line)
    assert json.loads(line)["event"] == f"{ATTACK}猫"
    assert escape_unprintable("猫👨\u200d👩") == "猫👨\u200d👩"

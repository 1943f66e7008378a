"""Wrapped lines, colors and previews of the terminal chat."""

import io
import re
from contextlib import redirect_stdout
from typing import Any

import pytest
from PIL import Image
from rich.cells import cell_len

from visualglm.terminal import preview, query
from visualglm.terminal.output import CLOSING, LineWrapper, Screen

TEXTS = {
    "English": "The picture shows a black ring, a purple car (small) and a red star.\n\nThat is all: nothing else!",
    "Chinese": "图片中有一个黑色的圆环、一辆紫色的小汽车和一颗红色的星星。“圆环”在右上角，《星星》在左下角。",
    "both": "图片里的 car 是 purple，而 star 是 red（红色）。 The end，没有了🦊🦊。",
    "indented": "a\n    b c\n\n  d",
}


def wrap(text: str, width: int, step: int) -> str:
    wrapper = LineWrapper()
    parts = [wrapper.feed(text[start : start + step], width) for start in range(0, len(text), step)]
    return "".join(parts) + wrapper.finish(width)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("width", [12, 20, 33, 200])
def test_no_line_is_too_wide_and_no_character_is_lost(text: str, width: int) -> None:
    wrapped = wrap(text, width, 1)
    assert all(cell_len(line) <= width for line in wrapped.split("\n"))
    assert re.sub(r"\s", "", wrapped) == re.sub(r"\s", "", text)
    assert not any(line.startswith(tuple(CLOSING)) for line in wrapped.split("\n"))
    assert wrap(text, 200, 1) == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_streamed_text_is_wrapped_as_a_complete_one(text: str) -> None:
    assert wrap(text, 20, 1) == wrap(text, 20, 3) == wrap(text, 20, len(text))


def test_words_are_not_broken_but_long_ones_are_kept() -> None:
    assert wrap("one two three", 10, 1) == "one two\nthree"
    assert wrap("x" * 30 + " y", 12, 4).replace("\n", "") in ("x" * 30 + "y", "x" * 30 + " y")


class Terminal(io.StringIO):
    """A standard output that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "KITTY_WINDOW_ID", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setattr(Screen, "width", 80)
    return Terminal()


def show(terminal: Terminal) -> None:
    """Show a preview at the terminal."""
    with redirect_stdout(terminal):
        preview.show_preview(drawn(), Screen())


def answer_queries(monkeypatch: pytest.MonkeyPatch, reply: bytes) -> list[str]:
    asked: list[str] = []

    def ask(text: str, _: Any) -> tuple[bytes, str]:
        asked.append(text)
        return reply, query.typed_text(reply)

    monkeypatch.setattr(preview, "ask_terminal", ask)
    return asked


def drawn() -> Image.Image:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (0, 10, 40, 20))
    return image


def test_colors_are_used_at_a_terminal_unless_no_color_is_set(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redirect_stdout(terminal):
        Screen().show("text", "error")
    assert "\x1b[31mtext\x1b[0m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(terminal.seek(0))
    with redirect_stdout(terminal):
        Screen().show("text", "error")
    assert terminal.getvalue() == "text\n"


def test_force_color_gives_colors_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    Screen().show("text " * 50, "error")
    printed = capsys.readouterr().out
    assert printed.startswith("\x1b[")
    assert printed.count("\n") == 1


def test_half_blocks_have_the_colors_of_the_image(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_queries(monkeypatch, b"\x1b[?1;2c")
    show(terminal)
    lines = terminal.getvalue().splitlines()
    assert len(lines) == 10
    assert "\x1b[38;2;255;0;0;48;2;255;0;0m▀" in lines[0]
    assert "\x1b[38;2;0;0;255;48;2;0;0;255m▀" in lines[-1]


def test_a_terminal_that_says_so_gets_sixels(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_queries(monkeypatch, b"\x1b[?62;4;22c")
    show(terminal)
    assert asked == [preview.DEVICE_QUERY]
    assert terminal.getvalue().startswith('\x1bPq"1;1;400;200#0;2;')
    assert "!400~" in terminal.getvalue()
    assert "▀" not in terminal.getvalue()


def test_a_terminal_that_says_so_gets_kitty_graphics(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITTY_WINDOW_ID", "1")
    asked = answer_queries(monkeypatch, b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c")
    show(terminal)
    assert asked == [preview.KITTY_QUERY + preview.DEVICE_QUERY]
    assert terminal.getvalue().startswith("\x1b_Ga=T,f=100,q=2,c=40,r=10,m=0;")


def test_kitty_is_not_asked_through_tmux(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITTY_WINDOW_ID", "1")
    monkeypatch.setenv("TERM", "tmux-256color")
    asked = answer_queries(monkeypatch, b"")
    show(terminal)
    assert asked == [preview.DEVICE_QUERY]
    assert "▀" in terminal.getvalue()


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_preview_without_colors(
    variables: dict[str, str], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = answer_queries(monkeypatch, b"\x1b[?62;4c")
    show(terminal)
    assert (asked, terminal.getvalue()) == ([], "")


def test_no_preview_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    preview.show_preview(drawn(), Screen())
    assert capsys.readouterr().out == ""


def test_no_half_blocks_where_the_encoding_has_none(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_queries(monkeypatch, b"")
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    show(terminal)
    assert terminal.getvalue() == ""


def test_keys_typed_before_a_reply_are_kept() -> None:
    assert query.typed_text(b"ab\x1b[A\xe6\x98\x9f\x1b_Gi=31;OK\x1b\\\x1b[?62;4c") == "ab星"

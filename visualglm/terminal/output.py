"""Output of the terminal chat: colors, notes, and lines that are wrapped between words."""

import os
import re
import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from model.command_line import make_printable, print_text

STYLES = {"label": "bold cyan", "note": "dim", "error": "red", "title": "bold"}
OPENING = "（《〈「『【〔“‘([{"  # stays with the character after it
CLOSING = "，。！？；：、）》〉」』】〕”’…,.!?;:)]}%"  # stays with the character before it
WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\U00020000-\U0003ffff"
# A newline, blanks, or a unit that is not broken: a word, or one wide character, with its punctuation marks.
UNIT = re.compile(
    rf"\n|[ \t]+|[{re.escape(OPENING)}]*(?:[{WIDE}]|[^\s{WIDE}]+)?[{re.escape(CLOSING)}]*|[^\S\n]", re.DOTALL
)
MIN_WIDTH = 10  # columns; narrower terminals break lines themselves


class LineWrapper:
    """Breaks the lines of a streamed text between words, by the width of its characters on the screen.

    The last word of the text so far is held back until it is complete.

    Args:
        indent: number of blanks before the lines after a break, where the terminal is wide enough.
    """

    def __init__(self, indent: int = 0) -> None:
        self.column = 0
        self.indent = indent
        self.held = ""
        self.blank = ""

    def feed(self, text: str, width: int) -> str:
        """Add a part of the text; return what can be written now."""
        units = [unit for unit in UNIT.findall(self.held + text.replace("\t", "    ")) if unit]
        self.held = units.pop() if units and units[-1] != "\n" else ""
        return "".join(part for unit in units for part in self.place(unit, width))

    def finish(self, width: int) -> str:
        """Return the rest of the text."""
        units, self.held = [self.held] if self.held else [], ""
        return "".join(part for unit in units for part in self.place(unit, width))

    def place(self, unit: str, width: int) -> Iterator[str]:
        """Yield the parts of a newline, a blank, or a unit that is not broken, with a line break before it if needed.

        The last word that was added by `feed` should have been written: see `finish`.
        """
        if unit == "\n":
            self.column, self.blank = 0, ""
            yield unit
            return
        if unit.isspace():
            self.blank = unit
            return
        size = cell_len(unit)
        if width >= MIN_WIDTH and self.column and self.column + len(self.blank) + size > width:
            self.column, self.blank = self.indent if width >= 2 * self.indent else 0, ""
            yield "\n" + " " * self.column
        yield self.blank + unit
        end = self.column + len(self.blank) + size
        self.column = end if end <= width or width <= 0 else (end - 1) % width + 1
        self.blank = ""


class Screen:
    """The standard output.

    A terminal gets wrapped lines, and colors unless NO_COLOR forbids them; FORCE_COLOR demands colors everywhere.
    Otherwise the text is written unchanged.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        is_styled = self.is_terminal or bool(os.environ.get("FORCE_COLOR"))
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True) if is_styled else None
        self.graphics: str | None = None  # "kitty", "sixel", "" for neither; None until the terminal was asked
        self.wrapper = LineWrapper()

    @property
    def width(self) -> int:
        """Number of columns; 0 if lines are not wrapped."""
        try:
            return os.get_terminal_size(sys.stdout.fileno()).columns if self.is_terminal else 0
        except (OSError, ValueError):
            return 0

    @property
    def has_colors(self) -> bool:
        """Whether colors can be used."""
        return self.console is not None and self.console.color_system is not None and not self.console.no_color

    def show(self, text: object = "", style: str = "") -> None:
        """Write lines of text in a style of `STYLES`."""
        self.write(f"{text}", style)
        self.end_line()

    def write(self, text: str, style: str = "") -> None:
        """Write a part of a line immediately, but for its last word; see `end_line`."""
        if self.console is None:
            print_text(text, end="")
            return
        if style:  # is not continued by the next part
            self.end_part()
        ready = self.wrapper.feed(make_printable(text), self.width)
        self._emit(ready + self.wrapper.finish(self.width) if style else ready, style)

    def write_units(self, units: Sequence[str], style: str = "") -> None:
        """Write texts that are not broken, and the blanks between them, where lines may end."""
        if self.console is None:
            print_text("".join(units), end="")
            return
        self.end_part()
        self._emit("".join(part for unit in units for part in self.wrapper.place(unit, self.width)), style)

    def end_part(self) -> None:
        """Write the word that is held back."""
        if self.console is not None:
            self._emit(self.wrapper.finish(self.width), "")

    def start_line(self, indent: int) -> None:
        """Start a line and set the indentation of its wrapped continuation, in columns."""
        self.wrapper = LineWrapper(indent)

    def end_line(self) -> None:
        """End the current line."""
        self.end_part()
        self.wrapper = LineWrapper()
        print_text()

    def write_raw(self, data: str) -> None:
        """Write control sequences unchanged."""
        sys.stdout.write(data)
        sys.stdout.flush()

    def _emit(self, text: str, style: str) -> None:
        if self.console is None or not text:
            return
        if style and self.has_colors:
            self.console.print(Text(text, style=STYLES[style]), end="")
            self.console.file.flush()
        else:
            print_text(text, end="")

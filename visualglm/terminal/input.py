"""Input of the terminal chat: lines with editing, completion and history at a terminal, plain lines otherwise."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from model.command_line import print_text
from model.environment import expand_home, read_variable

from .commands import SETTINGS
from .interrupts import interrupt_once, on_interrupt
from .texts import Texts

BOM = "\ufeff"
QUOTES = '"""'  # before and after several lines
MAX_HISTORY = 1_000_000  # bytes; a longer file is cut to its newer half
FILE_COMMANDS = ("/image", "/save", "/load")


def read_line(prompt: str) -> str:
    """Read a line without editing.

    A line that does not come from a terminal is echoed, so that the output is a complete transcript.
    """
    with on_interrupt(interrupt_once):
        line = input(prompt).removeprefix(BOM)  # editors on Windows put it at the start of a file
    if not sys.stdin.isatty():
        print_text(line)
    return line


def is_interactive() -> bool:
    """Return whether a user types at a terminal and reads the output there."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def make_reader(texts: Texts | None = None) -> Callable[[str], str]:
    """Return a function that reads a line: with editing and history at a terminal, else without.

    Args:
        texts: the program's texts, whose commands the Tab key completes.
    """
    if not is_interactive():
        return read_line
    # prompt_toolkit queries the cursor position for its menus, and prints a warning if the terminal does not reply.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    return LineEditor(texts)


class LineEditor:
    """Reads questions at a terminal.

    Args:
        texts: the program's texts; None for no completion of commands.
    """

    def __init__(self, texts: Texts | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.shortcuts import CompleteStyle

        self.texts = texts
        self.next_text = ""  # in the next prompt from its start
        self.session: PromptSession[str] = PromptSession(
            history=make_history(),
            completer=make_completer([*texts.commands] if texts else []),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            key_bindings=make_key_bindings(),
            multiline=True,
            prompt_continuation=lambda width, line, wrap_count: "" if wrap_count else "... ",
        )

    def __call__(self, prompt: str) -> str:
        """Read a question, which may have several lines, with `prompt` before it."""
        from prompt_toolkit.formatted_text import FormattedText

        text, self.next_text = self.next_text, ""
        hint = self.texts.placeholder if self.texts and prompt == self.texts.ask_question else ""
        line = self.session.prompt(
            FormattedText([("bold ansicyan", prompt)]),
            default=text,
            placeholder=FormattedText([("ansibrightblack", hint)]),
            handle_sigint=False,  # handles Ctrl-C as a key while it reads
        )
        return strip_quotes(line)


def strip_quotes(text: str) -> str:
    """Remove the three quotation marks before and after several lines."""
    inner = text.strip()
    return inner.removeprefix(QUOTES).removesuffix(QUOTES).strip() if inner.startswith(QUOTES) else text


def is_open(text: str) -> bool:
    """Return whether a text begins with three quotation marks and does not end with another three."""
    inner = text.strip()
    return inner.startswith(QUOTES) and not (inner.endswith(QUOTES) and len(inner) >= 2 * len(QUOTES))


def make_key_bindings() -> Any:
    """Return the keys: Enter ends the text unless it is quoted; Alt+Enter begins a new line."""
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def accept(event: Any) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def begin_line(event: Any) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings


def make_completer(commands: list[str]) -> Any:
    """Return a completer of commands, names of settings and paths."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class ChatCompleter(Completer):
        """Completes the word before the cursor."""

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            """Yield the completions."""
            text = document.text_before_cursor
            first, space, rest = text.partition(" ")
            if not space:
                yield from (Completion(name, -len(text)) for name in commands if text and name.startswith(text))
            if space and first == "/set" and " " not in rest:
                yield from (Completion(name, -len(rest)) for name in SETTINGS if name.startswith(rest))
                return
            typed = rest.lstrip() if space and first in FILE_COMMANDS else text
            if typed.startswith(("/", "./", "../", "~")) or (space and first in FILE_COMMANDS) or "/" in typed:
                plain = re.sub(r"\\(.)", r"\1", typed)
                for found in paths.get_completions(Document(plain), complete_event):
                    end = re.sub(r"([\s\"'\\])", r"\\\1", found.text)
                    yield Completion(end, found.start_position, display=found.display)

    return ChatCompleter()


def make_history() -> Any:
    """Return the history of earlier input: kept in a file that only the user can read, if that is possible."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class SafeHistory(FileHistory):
        """A history whose file may be unreadable or unwritable, as on a full disk."""

        def load_history_strings(self) -> Iterator[str]:
            """Yield the earlier input, newest first."""
            with contextlib.suppress(OSError):
                yield from super().load_history_strings()

        def store_string(self, string: str) -> None:
            """Append input to the file."""
            with contextlib.suppress(OSError):
                super().store_string(string.encode("utf-8", "replace").decode("utf-8"))

    file = history_file()
    if file is None:
        return InMemoryHistory()
    with contextlib.suppress(OSError):
        prepare_history(file)
    return SafeHistory(str(file))


def history_file() -> Path | None:
    """Return the path of the history in $XDG_STATE_HOME; None if there is no home directory."""
    state = read_variable("XDG_STATE_HOME")
    folder = Path(state) if state and Path(state).is_absolute() else expand_home("~/.local/state")
    return folder / "visualglm" / "history" if folder.is_absolute() else None


def prepare_history(file: Path) -> None:
    """Create the history with private permissions, and cut a long one; raise OSError if that is impossible."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    with os.fdopen(descriptor, "r+b") as opened:
        file.chmod(0o600)
        if os.fstat(opened.fileno()).st_size > MAX_HISTORY:
            opened.seek(-MAX_HISTORY // 2, os.SEEK_END)
            kept = opened.read().partition(b"\n\n")[2]  # from the next entry
            opened.seek(0)
            opened.truncate()
            opened.write(kept)

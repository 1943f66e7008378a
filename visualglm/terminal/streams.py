"""Read from a person and write to one, at a terminal or through pipes, and handle Ctrl-C."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from model.command_line import print_text


@contextlib.contextmanager
def on_interrupt(handler: Any) -> Iterator[None]:
    """Let Ctrl-C do what `handler` does, in the block."""
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupt(*_: Any) -> None:
    """Let Ctrl-C do nothing.

    Unlike `signal.SIG_IGN`: Python complains on the screen of a signal that came just before it was to be ignored.
    """


def interrupt_once(*_: Any) -> NoReturn:
    """Raise KeyboardInterrupt, and let no other disturb what it sets off."""
    signal.signal(signal.SIGINT, ignore_interrupt)
    raise KeyboardInterrupt


BOM = "\ufeff"


def write(text: str) -> None:
    """Write a piece of an answer at once."""
    print_text(text, end="")


def make_reader() -> Callable[[str], str]:
    """Return a function that asks for a line: with editing and history at a terminal, plain otherwise."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return read_line
    # It asks the terminal where the cursor is, to place menus that we have not, and complains if that is mute.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    from prompt_toolkit import PromptSession

    return partial(PromptSession[str]().prompt, handle_sigint=False)  # while it reads, Ctrl-C is a key


def read_line(prompt: str) -> str:
    """Ask for a line; write it out if nobody typed it, so that a dialogue from a file can be followed."""
    with on_interrupt(interrupt_once):
        line = input(prompt).removeprefix(BOM)  # which editors on Windows put at the start of a file
    if not sys.stdin.isatty():
        print_text(line)
    return line

"""Share the command line of all programs: the parser, exit codes, printing, and how errors and Ctrl-C end a program."""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

from .errors import SettingError, VisualGLMError
from .resource_errors import translate_resource_errors

CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but newline and tab
BIDI_CONTROLS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # https://www.unicode.org/reports/tr9
SURROGATES = r"\ud800-\udfff"  # surrogates, which no output can encode
UNPRINTABLE = re.compile(f"[{CONTROLS}{BIDI_CONTROLS}{SURROGATES}]")


def make_printable(text: str) -> str:
    """Replace control characters and direction marks by U+FFFD and lone surrogates by "?"; newlines and tabs stay."""
    return UNPRINTABLE.sub("\ufffd", text.encode("utf-8", "replace").decode("utf-8"))


def escape_unprintable(text: str) -> str:
    """Write the same characters as JSON escapes, for a log in JSON that is read at a terminal."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_text(*values: object, sep: str = " ", end: str = "\n", file: TextIO | None = None) -> None:
    """Print as `print` does, but only characters that are safe for a terminal, and at once.

    Args:
        file: None for the standard output.
    """
    text = make_printable(sep.join(map(str, values)))
    print(text, end=end, file=file or sys.stdout, flush=True)


SUCCESS, FAILURE, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130  # exit codes; the last is the shells' for Ctrl-C


def run_program(main: Callable[[], int | None], *, interrupted: str = "") -> int:
    """Run a program's main function; return the exit code: `SUCCESS` for None.

    A VisualGLMError is printed as "error: message". Other exceptions are bugs and are raised.

    Args:
        interrupted: is printed as an error after Ctrl-C.
    """
    tolerate_encoding_errors()
    try:
        status = _exit_code_of(main, interrupted)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still to be flushed
        return FAILURE


def _exit_code_of(main: Callable[[], int | None], interrupted: str) -> int:
    try:
        with translate_resource_errors():
            status = main()
        return SUCCESS if status is None else status
    except VisualGLMError as error:
        print_error(str(error))
        return USAGE_ERROR if isinstance(error, SettingError) else FAILURE
    except KeyboardInterrupt:
        if interrupted:
            print_error(interrupted)
        return INTERRUPTED


def print_error(message: str) -> None:
    """Print an error to the standard error, in the form that all programs share."""
    print_text(f"error: {message}", file=sys.stderr)


def tolerate_encoding_errors() -> None:
    """Let no byte that cannot be decoded and no character that cannot be encoded end the program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Escaped, the name of a picture keeps its bytes that are not UTF-8; the tokenizer reads them as "?".
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")


def console_command() -> str | None:
    """Return `visualglm COMMAND` if the console program was called, which puts it into `sys.argv`; else None."""
    name = sys.argv[0] if sys.argv else ""
    return name if name.startswith("visualglm ") else None


class ArgumentParser(argparse.ArgumentParser):
    """Parser that reads `--server-name` and `--server_name` as the same option, whichever of them is documented.

    Abbreviations too may have either spelling. Values, and whatever follows a `--`, stay as they are. Called by the
    console program, it shows that program's command in place of `prog`.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **settings: Any) -> None:
        called = console_command()
        if called and prog and description:
            description = description.replace(prog, called)
        super().__init__(prog=called or prog, description=description, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error, and exit."""
        self.print_usage(sys.stderr)
        print_error(message)
        self.exit(USAGE_ERROR)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments (default: the command line); return the options and the unknown arguments."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(self.respell_option, given[:end]), *given[end:]], namespace)

    def respell_option(self, argument: str) -> str:
        """Return `--flag` or `--flag=value` in the documented spelling; anything else unchanged."""
        flag, equals, value = argument.partition("=")
        known = self._option_string_actions
        if not flag.startswith("--") or flag in known:
            return argument
        same = [option for option in known if normalize_option(option) == normalize_option(flag)]
        if not same and self.allow_abbrev:
            longer = filter(lambda option: normalize_option(option).startswith(normalize_option(flag)), known)
            same = sorted({option[: len(flag)] for option in longer})
            if len(same) > 1:
                self.error(f"ambiguous option: {flag} could match {', '.join(f'{option}...' for option in same)}")
        return same[0] + equals + value if same else argument


def normalize_option(option: str) -> str:
    """Return an option with all its words joined by underscores."""
    return option[:2] + option[2:].replace("-", "_")

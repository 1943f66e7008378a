"""Share the command-line behavior of all programs: argument parser, exit codes, safe printing, errors and Ctrl-C."""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, TextIO

from .errors import SettingError, VisualGLMError
from .resource_errors import translate_resource_errors

CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but newline and tab
BIDI_CONTROLS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # https://www.unicode.org/reports/tr9
SURROGATES = r"\ud800-\udfff"  # surrogates, which no output can encode
UNPRINTABLE = re.compile(f"[{CONTROLS}{BIDI_CONTROLS}{SURROGATES}]")


def make_printable(text: str) -> str:
    """Replace control and bidi characters by U+FFFD, lone surrogates by "?"; keep newlines and tabs."""
    return UNPRINTABLE.sub("\ufffd", text.encode("utf-8", "replace").decode("utf-8"))


def escape_unprintable(text: str) -> str:
    """Replace the same characters by JSON escapes, for JSON logs that are read in a terminal."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_text(*values: object, sep: str = " ", end: str = "\n", file: TextIO | None = None) -> None:
    """Print like `print`, with unprintable characters replaced and the output flushed.

    Args:
        file: None for the standard output.
    """
    text = make_printable(sep.join(map(str, values)))
    print(text, end=end, file=file or sys.stdout, flush=True)


SUCCESS, FAILURE, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130  # exit codes; shells use 130 for Ctrl-C


def run_program(main: Callable[[], int | None], *, interrupted: str = "") -> int:
    """Run a program's main function; return the exit code: `SUCCESS` for None.

    A VisualGLMError is printed as "error: message". Other exceptions are bugs and are raised.

    Args:
        interrupted: error message for Ctrl-C; "" prints none.
    """
    tolerate_encoding_errors()
    try:
        status = _exit_code_of(main, interrupted)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter still flushes stdout at exit
        return FAILURE


def _exit_code_of(main: Callable[[], int | None], interrupted: str) -> int:
    try:
        with translate_resource_errors():
            status = main()
        return SUCCESS if status is None else status
    except VisualGLMError as error:
        print_error(str(error))
        return error_exit_code(error)
    except KeyboardInterrupt:
        if interrupted:
            print_error(interrupted)
        return INTERRUPTED


def error_exit_code(error: VisualGLMError) -> int:
    """Return the exit code of a program that an error ends."""
    return USAGE_ERROR if isinstance(error, SettingError) else FAILURE


def print_error(message: str) -> None:
    """Print "error: message" to the standard error."""
    print_text(f"error: {message}", file=sys.stderr)


def tolerate_encoding_errors() -> None:
    """Configure the standard streams so that decoding and encoding errors do not end the program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # With escapes, image file names keep their non-UTF-8 bytes; the tokenizer reads such bytes as "?".
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")


def console_command() -> str | None:
    """Return `visualglm COMMAND` from `sys.argv` if the console program was started, else None."""
    name = sys.argv[0] if sys.argv else ""
    return name if name.startswith("visualglm ") else None


class ArgumentParser(argparse.ArgumentParser):
    """Parser that accepts hyphens and underscores alike: `--server-name` and `--server_name` are the same option.

    Abbreviations may have either spelling. Values, and all arguments after `--`, are unchanged. In the console program
    the usage shows `visualglm COMMAND` in place of `prog`.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **settings: Any) -> None:
        called = console_command()
        if called and prog and description:
            description = description.replace(prog, called)
        super().__init__(prog=called or prog, description=description, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error message, and exit with `USAGE_ERROR`."""
        self.print_usage(sys.stderr)
        print_error(message)
        self.exit(USAGE_ERROR)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse arguments (default: `sys.argv`) and return the namespace; exit if one is unknown."""
        options: argparse.Namespace
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self.suggest_options(unknown)}")
        return options

    def suggest_options(self, unknown: Sequence[str]) -> str:
        """Return a question that names the option that each unknown one resembles; "" if there is none."""
        shown = [option for option, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
        options = {normalize_option(option): option for option in shown if option.startswith("--")}
        flags = [argument.partition("=")[0] for argument in unknown if argument.startswith("--")]
        close = [found for flag in flags for found in get_close_matches(normalize_option(flag), options, 1)]
        return f". Did you mean {' and '.join(options[name] for name in dict.fromkeys(close))}?" if close else ""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments (default: `sys.argv`); return the namespace and the unknown arguments."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(self.respell_option, given[:end]), *given[end:]], namespace)

    def respell_option(self, argument: str) -> str:
        """Return `--flag` or `--flag=value` in the documented spelling; other arguments unchanged."""
        flag, equals, value = argument.partition("=")
        known = self._option_string_actions
        if not flag.startswith("--") or flag in known:
            return argument
        matches = [option for option in known if normalize_option(option) == normalize_option(flag)]
        if not matches and self.allow_abbrev:
            longer = [option for option in known if normalize_option(option).startswith(normalize_option(flag))]
            same_action = len({id(known[option]) for option in longer}) == 1
            matches = longer[:1] if same_action else sorted({option[: len(flag)] for option in longer})
            if len(matches) > 1:
                self.error(f"ambiguous option: {flag} could match {', '.join(f'{option}...' for option in matches)}")
        return matches[0] + equals + value if matches else argument


def normalize_option(option: str) -> str:
    """Return an option with hyphens between its words replaced by underscores."""
    return option[:2] + option[2:].replace("-", "_")

"""Printing for all programs: text of any origin reaches the terminal without characters that command it.

Names of files and tensors, a model's answers and piped input may hold escape sequences, or marks that turn the
direction of the text around and so hide what it says.
"""

import re
import sys
from typing import TextIO

CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but newline and tab
DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # https://www.unicode.org/reports/tr9
HALVES = r"\ud800-\udfff"  # surrogates, which no output can encode
UNPRINTABLE = re.compile(f"[{CONTROLS}{DIRECTIONS}{HALVES}]")


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

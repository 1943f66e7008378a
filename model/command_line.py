"""The parser of every program's command line."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class ArgumentParser(argparse.ArgumentParser):
    """Parser that reads `--server-name` and `--server_name` as the same option, whichever of them is documented.

    Abbreviations too may have either spelling. Values, and whatever follows a `--`, stay as they are.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments, those of the command line if none are given; return the options and what is unknown."""
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_known_args([*map(self.respell_option, given[:end]), *given[end:]], namespace)

    def respell_option(self, argument: str) -> str:
        """Return `--flag` or `--flag=value` in the documented spelling; anything else unchanged."""
        flag, equals, value = argument.partition("=")
        known = self._option_string_actions
        if not flag.startswith("--") or flag in known:
            return argument
        same = [option for option in known if to_words(option) == to_words(flag)]
        if not same and self.allow_abbrev:
            longer = filter(lambda option: to_words(option).startswith(to_words(flag)), known)
            same = sorted({option[: len(flag)] for option in longer})
            if len(same) > 1:
                self.error(f"ambiguous option: {flag} could match {', '.join(f'{option}...' for option in same)}")
        return same[0] + equals + value if same else argument


def to_words(option: str) -> str:
    """Return an option with all its words joined by underscores."""
    return option[:2] + option[2:].replace("-", "_")

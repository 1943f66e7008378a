"""Stop strings: an answer ends before the first of them, wherever the pieces' borders fall."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from model import Piece


class StopStrings:
    """Holds back what may become a stop string.

    Args:
        stops: the strings, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; return what may be shown now, and whether a stop string has come."""
        self.held += text
        found = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            return self._show(min(found)), True
        return self._show(len(self.held) - self._started()), False

    def flush(self) -> str:
        """Return what was held back in vain."""
        return self._show(len(self.held))

    def _started(self) -> int:
        """Return the length of the longest end that a stop string begins with."""
        longest = min(len(self.held), max((len(stop) for stop in self.stops), default=1) - 1)
        ends = (self.held[-length:] for length in range(longest, 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self.stops)), 0)

    def _show(self, length: int) -> str:
        shown, self.held = self.held[:length], self.held[length:]
        return shown


def cut_at_stops(pieces: Iterator[Piece], stops: Sequence[str]) -> Iterator[Piece]:
    """Yield the pieces up to the first stop string, which ends the answer; closing it closes `pieces`."""
    watch = StopStrings(stops)
    generator: Any = pieces
    with closing(generator):
        for piece in pieces:
            text, stopped = watch.push(piece.text)
            if stopped:
                yield Piece(text, "stop", piece.so_far, piece.so_far)
                return
            if piece.finish_reason is not None:
                text += watch.flush()
            yield replace(piece, text=text)

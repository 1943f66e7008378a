"""Read files of training data, keeping only the offsets of their rows in memory.

A file has one of two formats: JSON lines, one object per line; or one JSON list, like the original's dataset.json.
To find the rows of a list, the file is read into memory once.
"""

import codecs
import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import MAX_QUOTE_LENGTH, BadRowError, DataError, quote
from .formats import Row, parse_row

ADVICE = "Use JSON lines (one object per line), or a JSON list of objects, in UTF-8."
BOM = codecs.BOM_UTF8
HEAD_BYTES = 4096
# First bytes of files that are not UTF-8 text, and advice. Of two signatures with a common prefix the longer is first.
NON_TEXT_SIGNATURES = (
    (b"\x1f\x8b", "compressed by gzip. Unpack it: gunzip FILE.gz"),
    (b"BZh", "compressed by bzip2. Unpack it: bunzip2 FILE.bz2"),
    (b"\xfd7zXZ", "compressed by xz. Unpack it: unxz FILE.xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd. Unpack it: unzstd FILE.zst"),
    (b"PK\x03\x04", "a zip archive, or a table of Excel. Unpack it, or save the table as JSON"),
    (b"PAR1", "a Parquet file. Convert it to JSON lines"),
    (codecs.BOM_UTF32_LE, "text in UTF-32. Convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW"),
    (codecs.BOM_UTF32_BE, "text in UTF-32. Convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW"),
    (codecs.BOM_UTF16_LE, "text in UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    (codecs.BOM_UTF16_BE, "text in UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
)
BRACKETS = (b"{", b"[")


def describe_head(head: bytes) -> str | None:
    """Return a file's format, detected by its first bytes `head`, with advice; None if it may be UTF-8 text."""
    for signature, kind in NON_TEXT_SIGNATURES:
        if head.startswith(signature):
            return kind
    for name, pair in (("UTF-16LE", slice(0, 2)), ("UTF-16BE", slice(1, None, -1))):
        if len(head) > 1 and head[:2][pair][1:] == b"\0" and head[:2][pair][:1] in BRACKETS:
            return f"text in UTF-16. Convert it: iconv -f {name} -t UTF-8 FILE > NEW"
    return None


def describe_text(text: bytes) -> str | None:
    """Return why `text` is not JSON in UTF-8, with advice; None if there is no common cause."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        try:
            text.decode("gb18030")
        except UnicodeDecodeError:
            return f"it is not UTF-8 ({error})"
        return "it is not UTF-8, but may be GBK; convert the file: iconv -f GBK -t UTF-8 FILE > NEW"
    if text.lstrip(b"[{ \t\r\n")[:1] == b"'" and text.lstrip()[:1] in BRACKETS:
        return "it has single quotes, like a printed Python object; JSON has double quotes. Write it with json.dump"
    return None


def describe_object(path: Path) -> str | None:
    """Return a predicate with advice ("is one object ...") for a JSON object over several lines; None otherwise."""
    with path.open("rb") as file:
        first = file.readline().removeprefix(BOM).strip()
    if not first.startswith(b"{") or first.endswith(b"}"):
        return None
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    lists = [
        key for key, inside in value.items() if isinstance(inside, list) and inside and isinstance(inside[0], dict)
    ]
    if "messages" not in lists and "conversations" not in lists and lists:
        return f'is one object, whose rows may be in "{lists[0]}". Save only that list.'
    return "is one object over several lines. Put brackets around it, [ ... ], or write it into one line."


MAX_LISTED = 10  # bad rows listed in a message
WHITESPACE = re.compile(r"[ \t\r\n]*")

OnBadRow = Literal["error", "skip"]


@dataclass
class RowOffsets:
    """Byte offsets of each row in the file, and the row's number; takes 24 bytes per row."""

    starts: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    numbers: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, start: int, end: int, number: int) -> None:
        """Append a row."""
        self.starts.append(start)
        self.ends.append(end)
        self.numbers.append(number)


class Rows(Sequence[Row]):
    """The rows of a file; each is read when it is accessed. Worker processes may share an object."""

    def __init__(self, path: Path, offsets: RowOffsets) -> None:
        self.path = path
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets.numbers)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        """Read one row.

        Raises:
            BadRowError: the row is not JSON, has none of the formats, or its image does not exist.
        """
        return parse_row(self.read_json(index), self.offsets.numbers[index], self.path.parent)

    def read_json(self, index: int) -> Any:
        """Return the decoded JSON of a row.

        Raises:
            BadRowError: the row is not JSON.
        """
        start, end, number = self.offsets.starts[index], self.offsets.ends[index], self.offsets.numbers[index]
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            return json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            shown = quote(text.strip().decode("utf-8", "replace"))
            reason = describe_text(text) or error
            raise BadRowError(number, f"it is not JSON ({reason}): {shown}. {ADVICE}") from None


def read_rows(path: str | Path) -> Rows:
    """Index the rows of a file of training data.

    Raises:
        DataError: the file cannot be read, has no rows, is not UTF-8 text, is one object over several lines, or is a
            JSON list with a syntax error.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if kind := describe_head(head):
            raise DataError(f"The training data {path} is {kind}")
        if predicate := describe_object(path):
            raise DataError(f"The training data {path} {predicate}")
        is_list = head.removeprefix(BOM).lstrip().startswith(b"[")
        offsets = index_list(path) if is_list else index_lines(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"The training data {path} cannot be read: {reason}. Check the path.") from error
    if not offsets.numbers:
        raise DataError(f"The training data {path} has no rows. {ADVICE}")
    return Rows(path, offsets)


def index_lines(path: Path) -> RowOffsets:
    """Index the nonblank lines of a file."""
    offsets, end = RowOffsets(), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            start, end = end, end + len(line)
            if number == 1 and line.startswith(BOM):
                start, line = start + len(BOM), line[len(BOM) :]
            if line.strip():
                offsets.add(start, end, number)
    return offsets


def index_list(path: Path) -> RowOffsets:
    """Index the elements of a JSON list.

    Raises:
        DataError: the file is not a JSON list in UTF-8, or has a syntax error.
    """
    offsets = RowOffsets()
    raw = path.read_bytes()
    try:
        text = raw.removeprefix(BOM).decode("utf-8")
        offset = len(raw) - len(raw.removeprefix(BOM))
        done = 0
        for number, (start, end) in enumerate(element_spans(text), start=1):
            first = offset + len(text[done:start].encode())
            offset = first + len(text[start:end].encode())
            done = end
            offsets.add(first, offset, number)
    except (ValueError, RecursionError) as error:
        reason = describe_text(raw) or error
        raise DataError(
            f"The training data {path} cannot be read after its row {len(offsets.numbers)}: {reason}. {ADVICE}"
        ) from None
    return offsets


def element_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each element of a JSON list.

    Raises:
        ValueError: the text is not a JSON list.
    """
    decoder = json.JSONDecoder()
    position = skip_whitespace(text, skip_whitespace(text, 0) + 1)
    while text[position : position + 1] != "]":
        _, end = decoder.raw_decode(text, position)
        yield position, end
        position = skip_whitespace(text, end)
        if text[position : position + 1] == ",":
            position = skip_whitespace(text, position + 1)
        elif text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    if skip_whitespace(text, position + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, position + 1)


def skip_whitespace(text: str, position: int) -> int:
    """Return the first position, from `position` on, that is not whitespace."""
    match = WHITESPACE.match(text, position)
    return position if match is None else match.end()


def iterate_usable_rows(rows: Rows, bad: list[BadRowError]) -> Iterator[tuple[int, Row]]:
    """Yield the index and the row of all usable rows; add the errors of bad rows to `bad`."""
    for index in range(len(rows)):
        try:
            yield index, rows[index]
        except BadRowError as error:
            bad.append(error)


def describe_ignored_keys(ignored_keys: Mapping[str, int]) -> str:
    """Return the ignored keys as text, each with the number of rows that have it, the most frequent first."""
    ordered = sorted(ignored_keys.items(), key=lambda item: -item[1])
    shown = [f'"{key[:MAX_QUOTE_LENGTH]}" ({count} rows)' for key, count in ordered[:MAX_LISTED]]
    more = [f"and {len(ordered) - MAX_LISTED} more keys"] if len(ordered) > MAX_LISTED else []
    return ", ".join([*shown, *more])


def raise_for_bad_rows(rows: Rows, bad: Sequence[BadRowError], on_bad_row: OnBadRow) -> None:
    """Raise DataError if there are bad rows and they are not to be skipped, or if all rows are bad."""
    if not bad or (on_bad_row == "skip" and len(bad) < len(rows)):
        return
    first = "\n".join(f"  {error}" for error in bad[:MAX_LISTED])
    more = f"\n  ... and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    if len(bad) == len(rows):
        raise DataError(f"None of the {len(rows)} rows of the training data {rows.path} can be used:\n{first}{more}")
    raise DataError(
        f"{len(bad)} of the {len(rows)} rows of the training data {rows.path} cannot be used:\n{first}{more}\n"
        "Correct them, or skip them with --on-bad-row skip."
    )

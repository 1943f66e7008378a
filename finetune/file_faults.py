"""Why a file of training data, or a row of it, cannot be read: its encoding, compression, or form."""

import codecs
import json
from pathlib import Path

ADVICE = "Give JSON lines (one object a line), or one list of objects in brackets, in UTF-8."
BOM = codecs.BOM_UTF8
HEAD_BYTES = 4096
# First bytes of files that are not text, and what to do with them. The longer mark of two that begin alike comes first.
NOT_TEXT = (
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
    """Name the format of a file by its first bytes `head`, with advice; None if it may be UTF-8 text."""
    for mark, kind in NOT_TEXT:
        if head.startswith(mark):
            return kind
    for name, pair in (("UTF-16LE", slice(0, 2)), ("UTF-16BE", slice(1, None, -1))):
        if len(head) > 1 and head[:2][pair][1:] == b"\0" and head[:2][pair][:1] in BRACKETS:
            return f"text in UTF-16. Convert it: iconv -f {name} -t UTF-8 FILE > NEW"
    return None


def describe_text(text: bytes) -> str | None:
    """Return why text is not JSON in UTF-8, and what to do, as far as a common cause explains it."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        try:
            text.decode("gb18030")
        except UnicodeDecodeError:
            return f"it is not UTF-8 ({error})"
        return "it is not UTF-8, but may be GBK; convert the file: iconv -f GBK -t UTF-8 FILE > NEW"
    if text.lstrip(b"[{ \t\r\n")[:1] == b"'" and text.lstrip()[:1] in BRACKETS:
        return "it has single quotes, as Python prints objects; JSON has double quotes. Write it with json.dump"
    return None


def describe_object(path: Path) -> str | None:
    """Return what to do with a file that is one object over several lines; None if it is not."""
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
        return f'is one object, whose rows may be in "{lists[0]}". Save that list alone.'
    return "is one object over several lines. Put brackets around it, [ ... ], or write it into one line."

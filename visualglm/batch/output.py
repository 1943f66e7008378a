"""Append results to a file of JSON lines, whole lines only, and find out which are there already."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from model import SettingError, VisualGLMError

from .lock import lock_file
from .tasks import Result

SYNC_INTERVAL_S = 5.0
KEY, QUESTION_NUMBER = "key", "question_number"
TAKEN_PREFIX = "input_"  # of a column of the input with the name of a field


class OutputError(VisualGLMError):
    """The output cannot be written, or is not one that this program wrote."""


class OutputFile:
    """The output file, locked and open to append, without an incomplete last line.

    Attributes:
        done: (row key, question number) of each answer in the file.

    Args:
        path: created if it does not exist.

    Raises:
        SettingError: the path cannot be a file.
        OutputError: the file cannot be written, is in use, or holds other lines than this program's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_output(path)
        try:
            if not lock_file(self.file.fileno()):
                raise OutputError(
                    f"Another program is writing {str(path)!r}. Wait until it ends, stop it, or give another --output."
                )
            self.done = self._read_done()
        except BaseException:
            self.file.close()
            raise
        self.synced = time.monotonic()

    def write(self, result: Result) -> None:
        """Append the line of an answer.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        line = encode_line(output_fields(result))
        try:
            while line:
                line = line[self.file.write(line) :]
            if time.monotonic() - self.synced > SYNC_INTERVAL_S:
                self._sync()
        except OSError as error:
            raise OutputError(
                f"{str(self.path)!r} cannot be written ({error.strerror}). When that is mended, the same command goes "
                "on after the last complete line."
            ) from error
        self.done.add((result.task.key, result.question))

    def close(self) -> None:
        """Flush the file to disk and unlock it."""
        try:
            self._sync()
        except OSError:  # a write has failed before, and said so
            pass
        finally:
            self.file.close()

    def _sync(self) -> None:
        os.fsync(self.file.fileno())
        self.synced = time.monotonic()

    def _read_done(self) -> set[tuple[str, int]]:
        """Read the keys of the lines in the file; remove an incomplete last line."""
        done: set[tuple[str, int]] = set()
        end = 0
        for number, line in enumerate(self._lines(), 1):
            answered = parse_line(line)
            if answered is None and not self._is_last(end + len(line)):
                raise OutputError(
                    f"Line {number} of {str(self.path)!r} was not written by this program. Give another --output, or "
                    "remove that line."
                )
            if answered is None:
                self.file.truncate(end)
                break
            done.add(answered)
            end += len(line)
        self.file.seek(0, os.SEEK_END)
        return done

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from file

    def _is_last(self, end: int) -> bool:
        return end == self.path.stat().st_size


def open_output(path: Path) -> BinaryIO:
    """Open a file to append, without a buffer.

    Raises:
        SettingError: the path cannot be a file.
        OutputError: the file cannot be written.
    """
    if path.is_dir():
        raise SettingError(
            f"--output: {str(path)!r} is a folder. Give the path of a file, such as answers.jsonl in it."
        )
    if path.exists() and not path.is_file():
        raise SettingError(f"--output: {str(path)!r} is no regular file, so that a run could not go on. Give a file.")
    if not path.parent.is_dir():
        raise SettingError(
            f"--output: the folder {str(path.parent)!r} does not exist. Create it, or check the spelling."
        )
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        raise OutputError(
            f"{str(path)!r} cannot be written ({error.strerror}). Check the permissions, or give another --output."
        ) from error


def parse_line(line: bytes) -> tuple[str, int] | None:
    """Return row key and question number of an output line; None if it is incomplete or another line."""
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line)
        key, question = values[KEY], values[QUESTION_NUMBER]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, question) if isinstance(key, str) and isinstance(question, int) else None


def output_fields(result: Result) -> dict[str, Any]:
    """Return the fields of an output line: the columns of the row, and the answer."""
    own = {
        KEY: result.task.key,
        QUESTION_NUMBER: result.question,
        "question": result.task.questions[result.question],
        "answer": result.answer,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "answer_tokens": result.answer_tokens,
    }
    if result.logprob is not None:
        own["logprob"] = result.logprob
    if result.choice_logprobs:
        own["choice_logprobs"] = list(result.choice_logprobs)
    return {**rename_taken(result.task.columns, own), **own}


def rename_taken(columns: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns with a prefix for those whose names are fields of the output with another value."""
    return {
        f"{TAKEN_PREFIX}{name}" if name in own and own[name] != value else name: value
        for name, value in columns.items()
    }


def encode_line(fields: Mapping[str, Any]) -> bytes:
    """Return a JSON object as one line; values that JSON lacks, such as dates, as text."""
    try:
        return json.dumps(fields, ensure_ascii=False, default=str).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return json.dumps(fields, default=str).encode() + b"\n"

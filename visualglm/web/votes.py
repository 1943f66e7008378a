"""The file of votes: preference rows in TRL's format, with the images in the same folder.

    {"images": ["HASH.png"], "prompt": [{"role": "user", "content": "..."}],
     "chosen": [{"role": "assistant", "content": "..."}], "rejected": [...]}

Image paths are relative to the file's folder. Several pages can append to one file.
"""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from model import SettingError, Turn
from model.file_writing import apply_umask

from .errors import PageError

MAX_BYTES = 1024**3  # of the file and the images that this process has written
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
SIGNATURES |= {b"II*\0": "tif", b"MM\0*": "tif"}


def file_suffix(data: bytes) -> str:
    """Return the usual suffix of an image file, by its first bytes."""
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] == b"avif" else "heic"
    return next((suffix for start, suffix in SIGNATURES.items() if data.startswith(start)), "png")


def make_row(images: list[str], turns: list[Turn], question: str, chosen: str, rejected: str) -> dict[str, Any]:
    """Return a preference row."""
    prompt = []
    for turn in turns:
        prompt += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return {
        "images": images,
        "prompt": [*prompt, {"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


class VoteFile:
    """Appends votes to a JSON Lines file, under a lock that all processes respect.

    Args:
        path: the file; it is created at the first vote.

    Raises:
        SettingError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")
        self._written = 0
        self._counted = (0, 0)  # size of the file, and its number of rows
        try:
            with path.open("ab"):
                pass
        except OSError as error:
            raise SettingError(f"Votes cannot be written to {path}: {error.strerror}. Choose another file.") from error

    def append(self, row: dict[str, Any], image: tuple[str, bytes] | None) -> int:
        """Append a row, and write its image unless the folder has it already.

        Args:
            row: see `make_row`.
            image: name and content of its file; None without an image.

        Returns:
            The number of rows in the file.

        Raises:
            PageError: too_large, the limit of MAX_BYTES is reached.
        """
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if self._written + len(line) + len(image[1] if image else b"") > MAX_BYTES:
                raise PageError("too_large", text="votes_full")
            if image is not None:
                self._write_image(*image)
            count = self._count_rows()
            with self.path.open("ab") as file:
                file.write(line)
            self._written += len(line)
            self._counted = (self.path.stat().st_size, count + 1)
        return count + 1

    def _write_image(self, name: str, data: bytes) -> None:
        path = self.path.parent / name
        if path.exists():
            return
        part = path.with_name(f"{name}.part")
        part.write_bytes(data)
        apply_umask(part)
        part.replace(path)
        self._written += len(data)

    def _count_rows(self) -> int:
        size, count = self._counted
        if size != self.path.stat().st_size:  # another process has written
            with self.path.open("rb") as file:
                count = sum(1 for _ in file)
        return count

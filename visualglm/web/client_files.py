"""The client's files: modules, styles and the shell, served under an address that contains their hash."""

import functools
import gzip
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brotli
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "client"
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".html": "text/html; charset=utf-8",
}
STYLES = "page.css"  # all style sheets in one file, the basic one first
BASE_STYLES = "base.css"
FOR_EVER = "public, max-age=31536000, immutable"
HASH_DIGITS = 16


@functools.lru_cache(maxsize=256)
def compress(data: bytes, encoding: str) -> bytes:
    """Compress data for the HTTP content encoding "br" or "gzip"."""
    return brotli.compress(data) if encoding == "br" else gzip.compress(data, mtime=0)


def compressed_response(request: Request, data: bytes, media_type: str, **headers: str) -> Response:
    """Return a response in the best encoding that the client accepts."""
    accepted = request.headers.get("accept-encoding", "")
    encoding = next((name for name in ("br", "gzip") if name in accepted), None)
    headers["Vary"] = "Accept-Encoding"
    if encoding is not None:
        data, headers["Content-Encoding"] = compress(data, encoding), encoding
    return Response(data, media_type=media_type, headers={name.replace("_", "-"): v for name, v in headers.items()})


@dataclass(frozen=True)
class ClientFiles:
    """The content of the client's folder.

    Attributes:
        files: path in the folder, with slashes -> content.
        hash: of all contents.
    """

    files: dict[str, bytes]
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        object.__setattr__(self, "hash", digest.hexdigest()[:HASH_DIGITS])

    @property
    def address(self) -> str:
        """The relative URL of the files, with a slash at the end."""
        return f"page/client/{self.hash}/"

    @property
    def modules(self) -> list[str]:
        """The paths of the JavaScript modules."""
        return sorted(name for name in self.files if name.endswith(".js"))

    def text(self, name: str) -> str:
        """Return the content of a text file."""
        return self.files[name].decode("utf-8")

    def json(self, name: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads(self.files[name])


def read_client_files(folder: Path = FOLDER) -> ClientFiles:
    """Read the files of the client's folder, and combine the style sheets."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in MEDIA_TYPES)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    styles = sorted((path for path in paths if path.suffix == ".css"), key=style_order)
    return ClientFiles({**files, STYLES: b"\n".join(path.read_bytes() for path in styles)})


def style_order(path: Path) -> tuple[bool, str]:
    """Return the sort key of a style sheet: the basic one first, then by file name."""
    return path.name != BASE_STYLES, path.name


class ClientFolder:
    """Reads the client's files again when one of them has changed.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self._stamp: object = None
        self._files = ClientFiles({})

    def read(self) -> ClientFiles:
        """Return the current files."""
        folders = [folder for folder, _, _ in os.walk(self.folder)]
        stamp = {entry.path: entry.stat().st_mtime_ns for folder in folders for entry in os.scandir(folder)}
        if stamp != self._stamp:
            self._files, self._stamp = read_client_files(self.folder), stamp
        return self._files

    def respond(self, request: Request, file_hash: str, path: str) -> Response | None:
        """Return the response with a file, None if there is no such file.

        It may be cached for ever if the address has the hash of the current files.
        """
        files = self.read()
        if path not in files.files:
            return None
        caching = FOR_EVER if file_hash == files.hash else "no-cache"
        return compressed_response(request, files.files[path], MEDIA_TYPES[Path(path).suffix], Cache_Control=caching)

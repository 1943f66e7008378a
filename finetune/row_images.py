"""Find the picture of a row of training data: in keys, values and marks in its text."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import RowFormatError, quote

NUMBERED = r"(?:(?:picture|image|图片?)[ -]?\d+ *[:：] *)?"
NAMES = "image|img|image_?here|image_?placeholder|image_?pad|image_?token|image_soft_token|img_?context|start_of_image"
QWEN = r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>"
NAMED = rf"<\|?(?:{NAMES})(?:[ _-]?\d+)?\|?>"
PLACEHOLDER = re.compile(rf"{NUMBERED}(?:{QWEN}|{NAMED}|\[img(?:-\d+)?\])", re.IGNORECASE)
TAG = re.compile(rf"{NUMBERED}\(?<(image|img)>([^<>\n]*|{PLACEHOLDER.pattern})</\1>\)?", re.IGNORECASE)
HTML_TAG = re.compile(
    rf"{NUMBERED}<img\s(?:[^<>]*?\s)?src\s*=\s*(?P<quote>[\"']?)(?P<path>[^\"'<>]+?)(?P=quote)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
NOT_PATHS = ("", ".", "./")  # between <image> and </image> where the picture is given elsewhere
OTHER_MEDIA = re.compile(r"<\|?(?:video|audio)(?:[ _-]?\d+)?\|?>", re.IGNORECASE)


def strip_marks(question: str) -> tuple[str, list[str], int]:
    """Return a question without picture marks, the paths in its tags, and the number of its placeholders.

    Raises:
        ShapeError: it has a mark of a video or a sound.
    """
    reject_other_media(question)
    paths: list[str] = []
    placeholders = 0

    def take_path(path: str) -> str:
        nonlocal placeholders
        if path.strip() in NOT_PATHS or PLACEHOLDER.fullmatch(path.strip()):
            placeholders += 1
        else:
            paths.append(path.strip())
        return ""

    text = TAG.sub(lambda tag: take_path(tag[2]), question)
    text = HTML_TAG.sub(lambda tag: take_path(tag["path"]), text)
    text, count = PLACEHOLDER.subn("", text)
    return text.strip(), paths, placeholders + count


def reject_marks(text: str, name: str) -> str:
    """Return a text that should have no picture mark.

    Raises:
        ShapeError: it has one.
    """
    reject_other_media(text)
    if found := TAG.search(text) or PLACEHOLDER.search(text):
        raise RowFormatError(
            f'its "{name}" has the picture mark {found[0]!r}, which would be learned as text. Remove it; marks of '
            "pictures belong into questions"
        )
    return text


def reject_other_media(text: str) -> None:
    """Raise ShapeError for a mark of a video or a sound."""
    if found := OTHER_MEDIA.search(text):
        raise RowFormatError(f"it has {found[0]}; the model reads pictures only. Remove the row or the mark")


# Without case, hyphens and underscores: "Image", "image_path" and "imgs" are among them.
IMAGE_KEYS = frozenset(
    f"{name}{ending}"
    for name in ("img", "image", "picture", "pic", "photo")
    for ending in ("", "s", "path", "paths", "file")
)
OTHER_MEDIA_KEYS = ("video", "videos", "audio", "audios")
SOURCE_KEYS = ("path", "image", "image_url", "url", "file", "filename", "file_name")  # of a picture that is an object
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def normalize_key(key: str) -> str:
    """Return a key without case, hyphens and underscores."""
    return key.lower().replace("_", "").replace("-", "")


def image_keys(record: Mapping[str, Any]) -> list[str]:
    """Return the keys of a row that name its picture."""
    return [key for key in record if normalize_key(key) in IMAGE_KEYS]


def image_names(record: Mapping[str, Any]) -> list[str]:
    """Return the paths of all pictures that the keys of a row name.

    Raises:
        ShapeError: one is not a path, or there is a video or a sound.
    """
    for key in OTHER_MEDIA_KEYS:
        if record.get(key):
            raise RowFormatError(f'it has a "{key}"; the model reads pictures only. Remove the row or the key')
    return [name for key in image_keys(record) for name in paths_of(record[key])]


def paths_of(value: Any) -> list[str]:
    """Return the paths in the value of a picture's key: a path, an object that has one, or a list of them.

    Raises:
        ShapeError: there is something else.
    """
    if value in (None, "", [], {}):
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [path for item in value for path in paths_of(item)]
    if isinstance(value, Mapping):
        for key in SOURCE_KEYS:
            if value.get(key):
                return paths_of(value[key])
        if all(PLACEHOLDER.fullmatch(key) for key in value):  # {"<image_00>": "a.png"}, as MiniCPM-V has it
            return paths_of(list(value.values()))
    raise RowFormatError(f"its picture is {quote(value)}, not a path")


def single_image(named: Iterable[str], tagged: Iterable[str]) -> str | None:
    """Return the path of a row's picture, or None.

    Args:
        named: paths in the row's keys.
        tagged: paths in its texts, which may repeat those.

    Raises:
        ShapeError: there are several pictures.
    """
    names = list(named)
    names += dict.fromkeys(path for path in tagged if path not in names)
    if len(names) > 1:
        raise RowFormatError(f"it has {len(names)} pictures; the model reads one. Make a row of each")
    return names[0] if names else None


def reject_ignored_image(record: Mapping[str, Any], unread: Iterable[str]) -> None:
    """Raise ShapeError if a key that is not read holds the path of a picture, in a row that has no other."""
    for key in unread:
        if any(looks_like_image(key, value) for value in values_in(record[key])):
            raise RowFormatError(
                f'its "{key}" is {quote(record[key])}, which looks like a picture, but this key is not read. Call it '
                '"img", or remove it'
            )


def values_in(value: Any) -> Iterable[Any]:
    """Yield a value, or those in a list or an object."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def looks_like_image(key: str, value: Any) -> bool:
    """Whether a value is the path or address of a picture."""
    if not isinstance(value, str):
        return False
    is_image_key = any(name in normalize_key(key) for name in ("image", "img", "picture", "photo"))
    is_address = is_image_key and "://" in value
    return value.lower().endswith(SUFFIXES) or value.startswith("data:image/") or is_address


def find_image(name: str, folder: Path) -> Path:
    """Return the path of a picture.

    It starts from `folder`, where the data file is, else from the working directory, else, where it begins with the
    name of `folder`, from the directory above. Backslashes may separate its parts.

    Raises:
        ShapeError: there is no such file.
    """
    if name.startswith("data:"):
        raise RowFormatError("its picture is a data URL. Write it to a file and give its path")
    name = name.removeprefix("file://")
    if "://" in name:
        raise RowFormatError(f"the picture {quote(name)} is an address. Download it and give the path of the file")
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        candidates = [folder / spelling, Path(spelling)]
        if Path(spelling).parts[:1] == (folder.absolute().name,):
            candidates.append(folder.absolute().parent / spelling)
        for path in candidates:
            if os.path.isfile(path):  # noqa: PTH113  (says False where a path cannot even be one)
                return path
    windows = "\\" in name or DRIVE.match(name)
    hint = ". It is a path of Windows; give it from the data file on, like pictures/a.png" if windows else ""
    raise RowFormatError(
        f"the picture {quote(name)} was found neither beside the data file nor in the working directory{hint}"
    )

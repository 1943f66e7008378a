"""Find the image of a row of training data: in its keys, their values, and tags in its texts."""

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
NOT_PATHS = ("", ".", "./")  # contents of <image></image> if the image is given elsewhere
OTHER_MEDIA = re.compile(r"<\|?(?:video|audio)(?:[ _-]?\d+)?\|?>", re.IGNORECASE)


def strip_tags(question: str) -> tuple[str, list[str], int]:
    """Return a question without image tags, the paths in its tags, and the number of its placeholders.

    Raises:
        RowFormatError: it has a tag of a video or audio.
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


def reject_tags(text: str, name: str) -> str:
    """Return a text that must not have an image tag.

    Raises:
        RowFormatError: it has one.
    """
    reject_other_media(text)
    if found := TAG.search(text) or PLACEHOLDER.search(text):
        raise RowFormatError(
            f'its "{name}" has the image tag {found[0]!r}, which would be trained on as text. Remove it; image tags '
            "belong in questions"
        )
    return text


def reject_other_media(text: str) -> None:
    """Raise RowFormatError for a tag of a video or audio."""
    if found := OTHER_MEDIA.search(text):
        raise RowFormatError(f"it has {found[0]}; the model supports only images. Remove the row or the tag")


# Normalized keys, see `normalize_key`. They match "Image", "image_path" and "imgs", for example.
IMAGE_KEYS = frozenset(
    f"{name}{ending}"
    for name in ("img", "image", "picture", "pic", "photo")
    for ending in ("", "s", "path", "paths", "file")
)
OTHER_MEDIA_KEYS = ("video", "videos", "audio", "audios")
SOURCE_KEYS = (
    "path",
    "image",
    "image_url",
    "url",
    "file",
    "filename",
    "file_name",
)  # keys of an image that is an object
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def normalize_key(key: str) -> str:
    """Return a key in lower case, without hyphens and underscores."""
    return key.lower().replace("_", "").replace("-", "")


def image_keys(record: Mapping[str, Any]) -> list[str]:
    """Return the keys of a row whose values name its image."""
    return [key for key in record if normalize_key(key) in IMAGE_KEYS]


def image_names(record: Mapping[str, Any]) -> list[str]:
    """Return the paths of all images in the values of a row's keys.

    Raises:
        RowFormatError: one is not a path, or there is a video or audio.
    """
    for key in OTHER_MEDIA_KEYS:
        if record.get(key):
            raise RowFormatError(f'it has a "{key}"; the model supports only images. Remove the row or the key')
    return [name for key in image_keys(record) for name in paths_of(record[key])]


def paths_of(value: Any) -> list[str]:
    """Return the paths in an image key's value: a path, an object with a path, or a list.

    Raises:
        RowFormatError: the value is something else.
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
        if all(PLACEHOLDER.fullmatch(key) for key in value):  # {"<image_00>": "a.png"}, the format of MiniCPM-V
            return paths_of(list(value.values()))
    raise RowFormatError(f"its image is {quote(value)}, not a path")


def single_image(named: Iterable[str], tagged: Iterable[str]) -> str | None:
    """Return the path of a row's image, or None.

    Args:
        named: paths in the values of the row's keys.
        tagged: paths in tags of its texts, which may repeat those.

    Raises:
        RowFormatError: there are several images.
    """
    names = list(named)
    names += dict.fromkeys(path for path in tagged if path not in names)
    if len(names) > 1:
        raise RowFormatError(f"it has {len(names)} images; the model supports one. Make a row of each")
    return names[0] if names else None


def reject_ignored_image(record: Mapping[str, Any], unread: Iterable[str]) -> None:
    """Raise RowFormatError if the value of an ignored key looks like an image path, in a row without an image."""
    for key in unread:
        if any(looks_like_image(key, value) for value in values_in(record[key])):
            raise RowFormatError(
                f'its "{key}" is {quote(record[key])}, which looks like an image, but this key is ignored. Rename it '
                '"img", or remove it'
            )


def values_in(value: Any) -> Iterable[Any]:
    """Yield the values in a list or an object, or else the value itself."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def looks_like_image(key: str, value: Any) -> bool:
    """Return whether a value looks like the path or URL of an image."""
    if not isinstance(value, str):
        return False
    is_image_key = any(name in normalize_key(key) for name in ("image", "img", "picture", "photo"))
    is_address = is_image_key and "://" in value
    return value.lower().endswith(SUFFIXES) or value.startswith("data:image/") or is_address


def find_image(name: str, folder: Path) -> Path:
    """Return the path of an image file.

    `name` is relative to `folder` (the directory of the data file), or else to the working directory, or else, if it
    starts with the name of `folder`, to the parent of `folder`. Its separators may be backslashes.

    Raises:
        RowFormatError: there is no such file.
    """
    if name.startswith("data:"):
        raise RowFormatError("its image is a data URL. Write it to a file and give its path")
    name = name.removeprefix("file://")
    if "://" in name:
        raise RowFormatError(f"the image {quote(name)} is a URL. Download it and give the path of the file")
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        candidates = [folder / spelling, Path(spelling)]
        if Path(spelling).parts[:1] == (folder.absolute().name,):
            candidates.append(folder.absolute().parent / spelling)
        for path in candidates:
            if os.path.isfile(path):  # noqa: PTH113  (returns False for an invalid path)
                return path
    windows = "\\" in name or DRIVE.match(name)
    hint = ". It is a Windows path; give one relative to the data file, like images/a.png" if windows else ""
    raise RowFormatError(
        f"the image {quote(name)} was found neither in the directory of the data file nor in the working directory"
        f"{hint}"
    )

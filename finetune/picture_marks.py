"""Marks that stand for a picture in the text of training data, as the formats of several projects have them.

    <image>  <IMAGE>  <image_00>  <|image_1|>  <ImageHere>  <IMG_CONTEXT>  [IMG]     placeholders
    <img>a.png</img>  Picture 1: <img>a.png</img>  <img src="a.png">                 tags with a path

The prompt has a fixed position for its only picture, so marks are removed from questions. `<video>` and `<audio>` are
refused: the model reads neither.
"""

import re

from .errors import ShapeError

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


def take_marks(question: str) -> tuple[str, list[str], int]:
    """Return a question without picture marks, the paths in its tags, and the number of its placeholders.

    Raises:
        ShapeError: it has a mark of a video or a sound.
    """
    refuse_other_media(question)
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


def refuse_marks(text: str, name: str) -> str:
    """Return a text that should have no picture mark.

    Raises:
        ShapeError: it has one.
    """
    refuse_other_media(text)
    if found := TAG.search(text) or PLACEHOLDER.search(text):
        raise ShapeError(
            f'its "{name}" has the picture mark {found[0]!r}, which would be learned as text. Remove it; marks of '
            "pictures belong into questions"
        )
    return text


def refuse_other_media(text: str) -> None:
    """Raise ShapeError for a mark of a video or a sound."""
    if found := OTHER_MEDIA.search(text):
        raise ShapeError(f"it has {found[0]}; the model reads pictures only. Remove the row or the mark")

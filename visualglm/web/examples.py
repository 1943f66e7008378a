"""Example images with questions about them, and follow-up questions that suit the model."""

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from model import CHINESE, ENGLISH, Language
from model.description import Description, read_description
from model.names import EMBEDDED

INSTALLED_EXAMPLES = Path(__file__).parent / "examples"  # in a wheel
EXAMPLES_FOLDER = INSTALLED_EXAMPLES if INSTALLED_EXAMPLES.is_dir() else Path(__file__).parents[2] / "examples"
DRAWN_WORLD_MODEL = "visualglm-tiny"
PREVIEW_SIZE = 448  # pixels; cards show examples smaller than this
PREVIEW_QUALITY = 82
Questions = dict[Language, list[str]]


@dataclass(frozen=True)
class Example:
    """An example image.

    Attributes:
        name: of the file in EXAMPLES_FOLDER.
        title: what the image shows.
        questions: three, which visualglm-tiny answers correctly in both languages.
    """

    name: str
    title: dict[Language, str]
    questions: Questions

    @property
    def preview_name(self) -> str:
        """The name under which the page serves a small copy of the image."""
        return f"{Path(self.name).stem}.webp"


EXAMPLES = (
    Example(
        "scene.png",
        {CHINESE: "天空中的汽车、星星和圆环", ENGLISH: "A car, a star and a ring in the sky"},
        {
            CHINESE: [CHINESE.describe, "小汽车在哪里？", "圆环在星星的左边吗？"],
            ENGLISH: [ENGLISH.describe, "Where is the car?", "What color is the star?"],
        },
    ),
    Example(
        "scene_2.png",
        {CHINESE: "云上的方块、星星和树", ENGLISH: "A box, a star and a tree above the clouds"},
        {
            CHINESE: ["图片里有几个物体？", "树在哪里？", "星星是什么颜色？"],
            ENGLISH: ["How many objects are there?", "Where is the tree?", "Which object is the largest?"],
        },
    ),
    Example(
        "scene_3.png",
        {CHINESE: "草地上的月牙和方块", ENGLISH: "A moon and boxes on grass"},
        {
            CHINESE: ["图片里有什么？", "最大的物体是什么？", "有没有小汽车？"],
            ENGLISH: ["What is in the image?", "Which object is the largest?", "Is there a car?"],
        },
    ),
    Example(
        "hand_drawn.png",
        {CHINESE: "手绘的五个图形", ENGLISH: "Five shapes drawn by hand"},
        {
            CHINESE: ["星星是什么颜色？", "图片里有几个物体？", CHINESE.describe],
            ENGLISH: ["What color is the star?", "How many objects are there?", ENGLISH.describe],
        },
    ),
)

DRAWN_WORLD_SUGGESTIONS: Questions = {
    CHINESE: [CHINESE.describe, "图片里有几个物体？", "最大的物体是什么？", "有没有小汽车？", "星星是什么颜色？"],
    ENGLISH: [
        ENGLISH.describe,
        "How many objects are there?",
        "Which object is the largest?",
        "Is there a car?",
        "What color is the star?",
    ],
}
GENERAL_SUGGESTIONS: Questions = {
    CHINESE: [CHINESE.describe, "图片里有什么？", "背景里有什么？", "图片的主要颜色是什么？", "这张图片给人什么感觉？"],
    ENGLISH: [
        ENGLISH.describe,
        "What is in the image?",
        "What is in the background?",
        "What are the main colors?",
        "What is the mood of the image?",
    ],
}


@functools.cache
def make_preview(name: str) -> bytes:
    """Return a small copy of an example image, as a WebP file: a tenth of the bytes."""
    with Image.open(EXAMPLES_FOLDER / name) as image:
        small = image.convert("RGB")
    small.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=PREVIEW_QUALITY)
    return buffer.getvalue()


@functools.cache
def drawn_world_knowledge() -> dict[str, str]:
    """Return how the configuration of visualglm-tiny describes the drawn world; {} without that model."""
    try:
        return read_description(json.loads((EMBEDDED / DRAWN_WORLD_MODEL / "config.json").read_text(encoding="utf-8")))
    except OSError:
        return {}


def knows_drawn_world(description: Description) -> bool:
    """Return whether a model was trained on the scenes of visualglm-tiny, as its fine-tunes were."""
    known = drawn_world_knowledge()
    return bool(known) and dict(description.knowledge) == known


def choose_suggestions(description: Description) -> Questions:
    """Return follow-up questions that suit a model."""
    return DRAWN_WORLD_SUGGESTIONS if knows_drawn_world(description) else GENERAL_SUGGESTIONS

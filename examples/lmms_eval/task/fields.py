"""The fields of a question of tiny_scenes.yaml, as lmms-eval asks for them."""

from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parent


def load_images(row: dict[str, Any]) -> list[Image.Image]:
    """Return the image of a question."""
    with Image.open(FOLDER / "images" / row["image"]) as image:
        return [image.convert("RGB")]


def question(row: dict[str, Any]) -> str:
    """Return the text of a question."""
    return str(row["question"])


def accepted_answer(row: dict[str, Any]) -> str:
    """Return the accepted answer of a question; each has one."""
    (answer,) = row["accepted"]
    return str(answer)

"""Draw the README's image of explanations: a scene, and the parts of it that answers rely on.

python -m benchmarks.draw_explanation docs/images/explanation.png
"""

import argparse
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from model import ENGLISH, Conversation, load_sat
from model.command_line import ArgumentParser, run_program
from model.explain import explain_answer
from model.images.preprocess import load_image

SCENE = Path(__file__).parents[1] / "examples" / "scene.png"
QUESTIONS = ("What colour is the star?", "What colour is the car?", "Where is the ring?")
SIDE, GAP, CAPTION = 224, 8, 46  # pixels
FONT_SIZE = 14
COLORS = 256  # of the file, which has to be small


def draw_explanations(model: Any, scene: Image.Image) -> Image.Image:
    """Return the scene and the overlay of each answer in a row, with captions."""
    panels = [("", "", scene)]
    for question in QUESTIONS:
        found = explain_answer(model, Conversation(scene, [], ENGLISH), question)
        panels.append((question, found.answer, found.overlay()))
    sheet = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (question, answer, image) in enumerate(panels):
        left = number * (SIDE + GAP)
        sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, 0))
        draw.text((left + 2, SIDE + 4), question, "#565c68", font)
        draw.text((left + 2, SIDE + 24), answer, "#1b1e24", font)
    return sheet


def run() -> None:
    """Load visualglm-tiny, draw and save."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="FILE", help="image file to write")
    options = parser.parse_args()
    sheet = draw_explanations(load_sat("visualglm-tiny", device="cpu"), load_image(SCENE))
    sheet.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(options.output, optimize=True)


if __name__ == "__main__":
    raise SystemExit(run_program(run))

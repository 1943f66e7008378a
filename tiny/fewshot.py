"""Labeled images for fine-tuning on a question that visualglm-tiny cannot answer: the content of the background.

    python -m tiny.fewshot --out fewshot-data.zip                            # the 20 images of the repository
    python -m tiny.fewshot --out held-out --count 200 --seed 1000            # other images, in a folder, to evaluate on

The output is dataset.json in the original's format (img, prompt, label), and the images next to it. As in the original,
image paths begin with the folder's name, so programs run from the parent directory. A seed always gives the same
images; the backgrounds are balanced, their counts differ by at most one.
"""

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from model.command_line import ArgumentParser, run_program
from tiny.words.sentences import read_sentences
from visualglm.scenes import BACKGROUNDS, Scene, render_scene, sample_scene

COUNT, SEED = 20, 7
IMAGE_SIZE = 224
FOLDER = "fewshot-data"  # inside the archive
DATE = (2023, 1, 1, 0, 0, 0)  # modification time of the archive members: fixed, so that the archive is reproducible
SEED_OFFSET = 2**41  # disjoint from the seeds of training and evaluation

QUESTION: str = read_sentences("backgrounds")["question"]
ANSWERS: dict[str, str] = read_sentences("backgrounds")["answers"]  # background -> answer


@dataclass(frozen=True)
class LabeledScene:
    """A scene and the label of its background."""

    scene: Scene
    label: str

    def render(self) -> Image.Image:
        """Render the scene as an RGB image."""
        return render_scene(self.scene, IMAGE_SIZE)


def sample_labeled(seed: int = SEED, count: int = COUNT) -> Iterator[LabeledScene]:
    """Yield labeled scenes; each run of eight holds every background once, in random order."""
    rng = np.random.default_rng([SEED_OFFSET, seed])
    for number in range(count):
        if number % len(BACKGROUNDS) == 0:
            order = rng.permutation(len(BACKGROUNDS))
        background = BACKGROUNDS[order[number % len(BACKGROUNDS)]]
        yield LabeledScene(replace(sample_scene(rng), background=background), ANSWERS[background])


def make_files(folder: str, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file of a dataset: the images, then dataset.json."""
    rows = []
    for number, labeled in enumerate(sample_labeled(seed, count), start=1):
        name = f"{number:0{len(str(count))}d}.jpg"
        buffer = io.BytesIO()
        labeled.render().save(buffer, "JPEG", quality=90)
        rows.append({"img": f"{folder}/{name}", "prompt": QUESTION, "label": labeled.label})
        yield name, buffer.getvalue()
    yield "dataset.json", (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()


def write_folder(path: Path, seed: int = SEED, count: int = COUNT) -> None:
    """Write a dataset into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in make_files(path.resolve().name, seed, count):
        (path / name).write_bytes(content)


def write_archive(path: Path, seed: int = SEED, count: int = COUNT) -> None:
    """Write a dataset as a zip archive with one folder inside."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in make_files(FOLDER, seed, count):
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}", DATE), content)


def main() -> None:
    """Write the dataset that the command line asks for."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="output folder or .zip archive")
    parser.add_argument("--count", type=int, default=COUNT, help="number of images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="random seed (default %(default)s)")
    options = parser.parse_args()
    write = write_archive if options.out.suffix == ".zip" else write_folder
    write(options.out, options.seed, options.count)


if __name__ == "__main__":
    sys.exit(run_program(main))

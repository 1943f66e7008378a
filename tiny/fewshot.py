"""Labelled pictures on which to fine-tune: what is in the background, a question that visualglm-tiny cannot answer.

    python -m tiny.fewshot --out fewshot-data.zip                            # the 20 that come with the repository
    python -m tiny.fewshot --out held-out --count 200 --seed 1000            # others, in a folder, to evaluate on

Either holds dataset.json, in the original's shape (img, prompt, label), and the pictures next to it, whose paths begin
with the folder's name, as in the original: a program finds them from the directory that holds the folder. The same seed
draws the same ones; every background comes as often as another, give or take one.
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
from tiny.scenes import BACKGROUNDS, Scene, render_scene, sample_scene
from tiny.words.sentences import read_sentences

COUNT, SEED = 20, 7
IMAGE_SIZE = 224
FOLDER = "fewshot-data"  # in the archive
DATE = (2023, 1, 1, 0, 0, 0)  # of everything in the archive, so that it is the same whenever it is made
SEED_OFFSET = 2**41  # keeps clear of the scenes of the training and of its evaluation

QUESTION: str = read_sentences("backgrounds")["question"]
ANSWERS: dict[str, str] = read_sentences("backgrounds")["answers"]  # background -> answer


@dataclass(frozen=True)
class LabeledScene:
    """A picture, and what is in its background."""

    scene: Scene
    label: str

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        return render_scene(self.scene, IMAGE_SIZE)


def sample_labeled(seed: int = SEED, count: int = COUNT) -> Iterator[LabeledScene]:
    """Yield pictures with labels, the backgrounds in a random order in each run of eight."""
    rng = np.random.default_rng([SEED_OFFSET, seed])
    for number in range(count):
        if number % len(BACKGROUNDS) == 0:
            order = rng.permutation(len(BACKGROUNDS))
        background = BACKGROUNDS[order[number % len(BACKGROUNDS)]]
        yield LabeledScene(replace(sample_scene(rng), background=background), ANSWERS[background])


def make_files(folder: str, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of a folder: the pictures, and dataset.json."""
    rows = []
    for number, labeled in enumerate(sample_labeled(seed, count), start=1):
        name = f"{number:0{len(str(count))}d}.jpg"
        buffer = io.BytesIO()
        labeled.draw().save(buffer, "JPEG", quality=90)
        rows.append({"img": f"{folder}/{name}", "prompt": QUESTION, "label": labeled.label})
        yield name, buffer.getvalue()
    yield "dataset.json", (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()


def write_folder(path: Path, seed: int = SEED, count: int = COUNT) -> None:
    """Write the pictures and dataset.json into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in make_files(path.resolve().name, seed, count):
        (path / name).write_bytes(content)


def write_archive(path: Path, seed: int = SEED, count: int = COUNT) -> None:
    """Write them as a zip archive, in a folder of its own."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in make_files(FOLDER, seed, count):
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}", DATE), content)


def main() -> None:
    """Draw what the command line asks for."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder, or a .zip archive")
    parser.add_argument("--count", type=int, default=COUNT, help="pictures (default %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="draws others (default %(default)s)")
    options = parser.parse_args()
    write = write_archive if options.out.suffix == ".zip" else write_folder
    write(options.out, options.seed, options.count)


if __name__ == "__main__":
    sys.exit(run_program(main))

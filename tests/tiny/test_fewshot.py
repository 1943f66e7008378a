"""The repository's labeled images are reproducible by the script, and are valid training data."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.rows import read_rows
from model import load_tokenizer
from tests.helpers.image_files import difference
from tiny.fewshot import (
    ANSWERS,
    COUNT,
    FOLDER,
    IMAGE_SIZE,
    QUESTION,
    SEED,
    sample_labeled,
    write_archive,
    write_folder,
)
from tiny.questions import sample_example
from visualglm.scenes import BACKGROUNDS, sample_scene

ARCHIVE = Path(__file__).parents[2] / "fewshot-data.zip"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked folder of the archive."""
    folder = tmp_path_factory.mktemp("fewshot")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder / FOLDER


def test_the_archive_is_training_data(unpacked: Path) -> None:
    rows = list(read_rows(unpacked / "dataset.json"))
    assert len(rows) == COUNT == len({row.image for row in rows})
    assert {row.turns[0].question for row in rows} == {QUESTION}
    counts = Counter(row.turns[0].answer for row in rows)
    assert set(counts) == set(ANSWERS.values())
    assert set(counts.values()) == {2, 3}
    assert {path.name for path in unpacked.iterdir()} == {
        "dataset.json",
        *(row.image.name for row in rows if row.image),
    }


def test_the_archive_is_reproduced_by_its_seed(unpacked: Path) -> None:
    rows = json.loads((unpacked / "dataset.json").read_text(encoding="utf-8"))
    for row, labeled in zip(rows, sample_labeled(SEED, COUNT), strict=True):
        assert row["label"] == ANSWERS[labeled.scene.background] == labeled.label
        with Image.open(unpacked.parent / row["img"]) as image:
            assert image.size == (IMAGE_SIZE, IMAGE_SIZE)
            assert difference(image.convert("RGB"), labeled.render()) < 6  # JPEG artifacts


def test_the_same_seed_writes_the_same_archive(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_archive(tmp_path / name, seed=3, count=4)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_held_out_images_are_disjoint(unpacked: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "held", seed=1000, count=10)
    rows = list(read_rows(tmp_path / "held" / "dataset.json"))
    assert len(rows) == 10
    trained = {labeled.scene for labeled in sample_labeled()}
    held = [labeled.scene for labeled in sample_labeled(1000, 200)]
    assert not trained & set(held)
    assert set(Counter(scene.background for scene in held).values()) == {200 // len(BACKGROUNDS)}
    assert rows[0].image is not None
    assert Image.open(io.BytesIO(rows[0].image.read_bytes())).format == "JPEG"


def test_answers_use_only_tokens_that_visualglm_tiny_was_trained_on() -> None:
    tokenizer = load_tokenizer("visualglm-tiny")
    unsaid = {token for answer in ANSWERS.values() for token in tokenizer.encode_text(answer)}
    for number in range(8000):
        rng = np.random.default_rng(number)
        example = sample_example(sample_scene(rng) if number % 2 else None, rng, "zh")
        unsaid.difference_update(tokenizer.encode_text(example.answer))
        if not unsaid:
            return
    raise AssertionError(tokenizer.decode(list(unsaid)))

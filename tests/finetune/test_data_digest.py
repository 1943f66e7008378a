"""Digests of data change with the rows and with the images that the rows name."""

import json
from pathlib import Path

import pytest

from finetune import data_digest
from finetune.data_digest import BLOCK_BYTES, BLOCKS, describe_change, digest_data, digest_image, to_entry


def write_data(folder: Path, count: int) -> Path:
    rows = [{"img": f"{number}.png", "prompt": "?", "label": "a"} for number in range(count)] * 2
    for number in range(count):
        (folder / f"{number}.png").write_bytes(bytes([number]) * 100)
    (folder / "data.json").write_text(json.dumps([*rows, {"prompt": "?", "label": "no image"}]), encoding="utf-8")
    return folder / "data.json"


def change_of(path: Path, before: data_digest.DataDigest) -> str:
    return describe_change(to_entry(before), before.image_digests, digest_data(path))


def test_each_image_counts_once_and_is_named_if_it_changes(tmp_path: Path) -> None:
    path = write_data(tmp_path, 3)
    before = digest_data(path)
    assert (before.image_count, list(before.image_digests)) == (3, ["0.png", "1.png", "2.png"])
    assert change_of(path, before) == ""
    (tmp_path / "1.png").write_bytes(b"x" * 100)
    assert "1.png" in change_of(path, before)
    assert "0.png" not in change_of(path, before)


def test_a_moved_folder_has_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = digest_data(write_data(tmp_path / "a", 2))
    (tmp_path / "a").rename(tmp_path / "b")
    after = digest_data(tmp_path / "b" / "data.json")
    assert (after.rows, after.images) == (before.rows, before.images)


def changes_digest(path: Path, size: int, place: int) -> bool:
    """Return whether the byte at a place of a file with `size` bytes changes its digest."""
    content, digests = bytearray(size), []
    for byte in (0, 1):
        content[place] = byte
        path.write_bytes(content)
        digests.append(digest_image(path, True))
    return digests[0] != digests[1]


@pytest.mark.parametrize("place", [0, -1, BLOCK_BYTES])
def test_a_small_image_is_read_completely(tmp_path: Path, place: int) -> None:
    assert changes_digest(tmp_path / "a", BLOCKS * BLOCK_BYTES, place)


@pytest.mark.parametrize("place", [0, -1])
def test_of_a_large_image_the_first_and_the_last_bytes_count(tmp_path: Path, place: int) -> None:
    assert changes_digest(tmp_path / "a", 10 * BLOCKS * BLOCK_BYTES, place)


def test_of_very_many_images_some_are_read_and_all_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_digest, "MAX_READ_IMAGES", 4)
    path = write_data(tmp_path, 10)
    before = digest_data(path)
    assert (before.image_count, before.image_digests) == (10, {})
    (tmp_path / "0.png").write_bytes(b"x" * 100)
    assert "images have changed" in change_of(path, before)
    write_data(tmp_path, 10)
    (tmp_path / "1.png").write_bytes(b"x" * 99)
    assert "images have changed" in change_of(path, before)

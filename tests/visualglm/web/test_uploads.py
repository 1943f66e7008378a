"""The upload folder only opens its own regular files, and its size is limited."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from visualglm.web.uploads import MIN_FILE_BYTES, UploadError, UploadFolder


@pytest.fixture
def folder() -> Iterator[UploadFolder]:
    folder = UploadFolder(max_bytes=10 * MIN_FILE_BYTES)
    yield folder
    folder.remove()


def rejection_message(folder: UploadFolder, path: str | Path) -> str:
    with pytest.raises(UploadError) as error:
        folder.open(str(path))
    return str(error.value)


def test_only_its_own_regular_files_are_opened(folder: UploadFolder, tmp_path: Path) -> None:
    own = Path(folder.save(b"own", "own.txt"))
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"outside")
    (own.parent / "link").symlink_to(outside)
    (own.parent / "directory link").symlink_to(tmp_path)
    os.mkfifo(own.parent / "pipe")
    sibling = Path(f"{folder.path}-other")
    paths = [
        outside,
        own.parent,
        own.parent / "link",
        own.parent / "directory link" / "outside.txt",
        own.parent / "pipe",
    ]
    paths += [own.parent / ".." / ".." / ".." / "none", "/dev/zero", "/none", "", "\0", "\ud800", "x" * 10_000, sibling]
    assert len({rejection_message(folder, path) for path in paths}) == 1
    assert folder.read(str(own), 3) == b"own"


def test_a_file_that_is_replaced_while_it_is_opened_is_rejected(
    folder: UploadFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(folder.save(b"own", "own.txt"))
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"outside")
    real_open = os.open

    def exchange(path: str, flags: int) -> int:
        own.parent.rename(own.parent.with_name("moved"))
        own.parent.symlink_to(tmp_path)
        (tmp_path / "own.txt").write_bytes(b"outside")
        return real_open(path, flags)

    before = list(Path("/dev/fd").iterdir())
    monkeypatch.setattr(os, "open", exchange)
    rejection_message(folder, own)
    assert len(list(Path("/dev/fd").iterdir())) == len(before)


def test_a_file_that_is_removed_while_it_is_opened_is_rejected(
    folder: UploadFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(folder.save(b"own", "own.txt"))
    real_open = os.open

    def remove(path: str, flags: int) -> int:
        descriptor = real_open(path, flags)
        own.unlink()
        return descriptor

    before = list(Path("/dev/fd").iterdir())
    monkeypatch.setattr(os, "open", remove)
    rejection_message(folder, own)
    assert len(list(Path("/dev/fd").iterdir())) == len(before)


def test_extra_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"example")
    (tmp_path / "b").write_bytes(b"secret")
    folder = UploadFolder([tmp_path / "a"])
    assert folder.read(str(tmp_path / "a"), 100) == b"example"
    rejection_message(folder, tmp_path / "b")
    folder.remove()


def test_no_descriptor_is_left_open(folder: UploadFolder) -> None:
    own = Path(folder.save(b"own", "own.txt"))
    os.mkfifo(own.parent / "pipe")
    before = list(Path("/dev/fd").iterdir())
    for _ in range(3):
        folder.read(str(own), 3)
        rejection_message(folder, own.parent / "pipe")
        with pytest.raises(UploadError, match="bytes"):
            folder.read(str(own), 2)
    assert len(list(Path("/dev/fd").iterdir())) == len(before)


def test_the_oldest_files_are_removed(folder: UploadFolder) -> None:
    paths = [Path(folder.save(bytes(MIN_FILE_BYTES), "file")) for _ in range(3)]
    for age, path in enumerate(paths):
        os.utime(path, (path.stat().st_mtime - 10 + age,) * 2)
    with folder.reserve(8 * MIN_FILE_BYTES):
        assert [path.exists() for path in paths] == [False, True, True]
        assert not paths[0].parent.exists()


def test_many_small_files_are_bounded_too(folder: UploadFolder) -> None:
    for _ in range(100):
        folder.save(b"", "file")
    assert len(list(folder.path.iterdir())) <= 10


def test_space_is_reserved_once(folder: UploadFolder) -> None:
    with folder.reserve(9 * MIN_FILE_BYTES), pytest.raises(UploadError, match="Try again"):
        folder.save(bytes(2 * MIN_FILE_BYTES), "file")
    folder.save(bytes(2 * MIN_FILE_BYTES), "file")


def test_old_files_are_removed(folder: UploadFolder) -> None:
    old = Path(folder.save(b"old", "file"))
    os.utime(old, (0, 0))
    folder.save(b"new", "file")
    assert not old.exists()


def test_the_folder_is_private_and_recreated(folder: UploadFolder) -> None:
    assert folder.path.stat().st_mode & 0o777 == folder.root.stat().st_mode & 0o777 == 0o700
    folder.remove()
    folder.save(b"again", "file")
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_folder_is_not_used(folder: UploadFolder, tmp_path: Path) -> None:
    folder.remove()
    folder.path.symlink_to(tmp_path)
    with pytest.raises(UploadError, match="not a directory"):
        folder.save(b"data", "file")
    assert list(tmp_path.iterdir()) == []
    folder.path.unlink()


def test_threads_stay_within_the_bound(folder: UploadFolder) -> None:
    def save() -> None:
        for _ in range(20):
            folder.save(bytes(MIN_FILE_BYTES), "file")

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(folder.path.iterdir())) <= 10

"""The file of votes: rows of several pages are all kept, and the size is limited."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the web page needs Gradio")

from model import SettingError
from visualglm.web import votes
from visualglm.web.errors import PageError
from visualglm.web.votes import VoteFile, file_suffix, make_row

ROW = make_row(["a.png"], [], "What?", "x", "y")


def test_pages_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    files = [VoteFile(path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda number: files[number % 4].append(ROW, ("a.png", b"image")), range(40)))
    assert sorted(counts) == list(range(1, 41))
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [ROW] * 40
    assert (tmp_path / "a.png").read_bytes() == b"image"


def test_a_full_file_takes_no_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "MAX_BYTES", 300)
    file = VoteFile(tmp_path / "votes.jsonl")
    file.append(ROW, None)
    with pytest.raises(PageError, match="too_large"):
        file.append(ROW, ("a.png", bytes(1000)))
    assert not (tmp_path / "a.png").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nowhere"):
        VoteFile(tmp_path / "nowhere" / "votes.jsonl")


@pytest.mark.parametrize(
    ("data", "suffix"),
    [(b"\x89PNG", "png"), (b"\xff\xd8\xff\xe0", "jpg"), (b"\0\0\0 ftypavif", "avif"), (b"\0\0\0 ftypheic", "heic")],
)
def test_images_have_their_usual_suffix(data: bytes, suffix: str) -> None:
    assert file_suffix(data) == suffix

"""The transcripts in examples/ are the answers of the embedded model."""

from pathlib import Path
from typing import Any

import pytest

from model import CHINESE, ENGLISH, Turn, VisualGLMError, load_sat
from tiny.dialogues import Transcript, read_transcript, replay, write_transcript

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted((EXAMPLES / "dialogues").glob("*.txt"))


@pytest.fixture(scope="module")
def model() -> Any:
    return load_sat("visualglm-tiny", device="cpu")


def test_transcripts_cover_both_languages_with_and_without_an_image() -> None:
    transcripts = [read_transcript(file) for file in FILES]
    assert len(transcripts) >= 5
    assert {transcript.language for transcript in transcripts} == {CHINESE, ENGLISH}
    assert any(transcript.image is None for transcript in transcripts)
    assert all(len(transcript.turns) >= 3 for transcript in transcripts)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_model_reproduces_the_transcript(model: Any, file: Path) -> None:
    transcript = read_transcript(file)
    assert tuple(replay(model, transcript)) == transcript.turns


def test_transcripts_round_trip(tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    for language in (CHINESE, ENGLISH):
        transcript = Transcript(tmp_path / "picture.png", language, (Turn("one?", "1."), Turn("two?", "")))
        write_transcript(tmp_path / "dialogue.txt", transcript)
        assert read_transcript(tmp_path / "dialogue.txt") == transcript


@pytest.mark.parametrize(
    "text",
    [
        "picture: none\nHello",
        "picture: none\nA: Hello",
        "picture: absent.png\nQ: Hello",
        "Q: Hello",
        "picture: none\nQ: Hi\n答：你好",
    ],
)
def test_other_forms_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dialogue.txt").write_text(text, encoding="utf-8")
    with pytest.raises(VisualGLMError, match=r"dialogue\.txt"):
        read_transcript(tmp_path / "dialogue.txt")

"""Conversations as files: what is saved comes back, and nothing else gets in."""

import base64
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from model import CHINESE, ENGLISH, VisualGLMError
from model.image import load_image
from tests.cli_program import SCENE, huge_png
from web.conversation_file import MAX_CHARACTERS, MAX_TURNS, from_json, to_json, to_markdown
from web.picture import Picture
from web.session import Dialogue, Exchange, Status
from web.texts import TEXTS, choose_language

PICTURE = Picture.read(Path(SCENE).read_bytes())
EXCHANGES = [
    Exchange("图里有什么？", '一辆 <b>小汽车</b>\n\n和 "星星" 🦊', Status.DONE),
    Exchange("lost", "half", Status.STOPPED),
    Exchange("And?", "", Status.CUT),
]


@pytest.mark.parametrize("picture", [PICTURE, None])
def test_what_is_saved_comes_back(picture: Picture | None) -> None:
    saved = Dialogue(picture, EXCHANGES)
    loaded = from_json(to_json(saved).encode())
    assert (loaded.picture, loaded.turns) == (picture, saved.turns)
    assert to_json(loaded) == to_json(saved)


def test_the_words_are_saved_in_the_visitor_s_language() -> None:
    text = to_markdown(Dialogue(PICTURE, EXCHANGES), CHINESE)
    assert "**问：** 图里有什么？" in text
    assert "lost" not in text
    assert "**Q:** And?" in to_markdown(Dialogue(None, EXCHANGES), ENGLISH)


def document(**changes: Any) -> bytes:
    return json.dumps({**json.loads(to_json(Dialogue(None, EXCHANGES))), **changes}).encode()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


BAD_FILES = {
    "nothing": b"",
    "no text": b"\xff\xfe\x00",
    "no JSON": b"{",
    "a list": b"[]",
    "too deep": b"[" * 100_000,
    "something else": b'{"format": "other"}',
    "a newer version": document(version=2),
    "a path": document(image=SCENE),
    "a file URL": document(image=f"file://{SCENE}"),
    "an address": document(image="http://127.0.0.1:9/picture.png"),
    "a data URL of text": document(image="data:text/plain;base64,AAAA"),
    "bad base64": document(image="data:image/png;base64,A"),
    "no picture": document(image=data_url(b"no picture")),
    "a bomb": document(image=data_url(huge_png())),
    "a number for a picture": document(image=1),
    "a number for turns": document(turns=1),
    "a text for a turn": document(turns=["question"]),
    "half a turn": document(turns=[{"question": "What?"}]),
    "a number for an answer": document(turns=[{"question": "What?", "answer": 1}]),
    "too many turns": document(turns=[{"question": "", "answer": ""}] * (MAX_TURNS + 1)),
    "too long a turn": document(turns=[{"question": "", "answer": "a" * (MAX_CHARACTERS + 1)}]),
}


@pytest.mark.parametrize("data", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_and_opens_nothing(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"must not happen: {arguments}")

    for target in ("builtins.open", "pathlib.Path.open", "os.open"):
        monkeypatch.setattr(target, forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(VisualGLMError) as error:
        from_json(data)
    assert SCENE not in str(error.value)


def test_half_a_character_does_no_harm() -> None:
    (turn,) = from_json(document(turns=[{"question": "\ud800?", "answer": "\x00"}])).turns
    assert (turn.question.encode(), turn.answer) == (b"??", "\x00")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_kind_of_picture_survives_a_data_url(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    load_image(SCENE).save(path, format=kind)
    picture = Picture.read(path.read_bytes())
    assert Picture.from_data_url(picture.data_url) == picture
    assert max(picture.preview().size) <= 1024


@pytest.mark.parametrize(
    ("wanted", "accepted", "language"),
    [
        (None, None, CHINESE),
        ("en", "zh-CN,zh;q=0.9", ENGLISH),
        (None, "en-GB,en;q=0.9,zh;q=0.8", ENGLISH),
        (None, "fr,zh-TW;q=0.5,en;q=0.4", CHINESE),
        ("fr", "en", ENGLISH),
        ("ZH-cn", "en", CHINESE),
    ],
)
def test_the_page_s_language(wanted: str | None, accepted: str | None, language: object) -> None:
    assert choose_language(wanted, accepted) is language


@pytest.mark.parametrize("texts", TEXTS.values(), ids=lambda texts: texts.other_language)
@pytest.mark.parametrize("status", Status)
def test_whatever_is_not_an_answer_is_explained(texts: Any, status: Status) -> None:
    note = texts.note(Exchange("What?", "", status, "a1b2", 3))
    assert "3" in note.splitlines()[-1]
    assert (len(note.splitlines()) > 1) is (status not in (Status.RUNNING, Status.DONE))
    assert ("a1b2" in note) is (status in (Status.FAILED, Status.BROKEN))

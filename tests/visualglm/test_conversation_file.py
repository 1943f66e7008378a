"""Conversation files: saved conversations are loaded unchanged, and invalid files are rejected."""

import base64
import json
import socket
from typing import Any

import pytest
from PIL import Image

from model import CHINESE, ENGLISH, Turn, VisualGLMError, is_chinese
from model.images.preprocess import load_image
from tests.helpers.cli_program import SCENE, huge_png
from visualglm import conversation_file
from visualglm.conversation_file import (
    MAX_CHARACTERS,
    MAX_JSON_TOKENS,
    MAX_TEXT,
    MAX_TURNS,
    ConversationFileError,
    from_json,
    to_json,
    to_markdown,
    to_text,
)
from visualglm.error_texts import describe_error

TURNS = [Turn("图里有什么？", '一辆 <b>小汽车</b>\n\n和 "星星" 🦊'), Turn("And?", "")]


@pytest.mark.parametrize("with_image", [True, False])
def test_a_saved_conversation_is_restored(with_image: bool) -> None:
    image = load_image(SCENE) if with_image else None
    loaded = from_json(to_json(image, TURNS).encode())
    assert loaded.turns == TURNS
    assert (loaded.image and loaded.image.tobytes()) == (image and image.tobytes())


def test_a_large_image_is_saved_as_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_file, "MAX_PNG_BYTES", 10_000)
    text = to_json(Image.effect_noise((200, 100), 100).convert("RGB"), [])
    assert '"data:image/jpeg;base64,' in text
    loaded = from_json(text.encode())
    assert loaded.image and loaded.image.size == (200, 100)


def test_the_text_is_saved_in_a_language() -> None:
    assert "**问：** 图里有什么？" in to_markdown(TURNS, CHINESE)
    assert "**Q:** And?" in to_markdown(TURNS, ENGLISH)
    assert "Q: And?" in to_text(TURNS, ENGLISH)


def document(**changes: Any) -> bytes:
    turns = [{"question": "What?", "answer": "A car."}]
    return json.dumps(
        {"format": "visualglm-conversation", "version": 1, "image": None, "turns": turns, **changes}
    ).encode()


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
    "an address": document(image="http://127.0.0.1:9/image.png"),
    "a data URL of text": document(image="data:text/plain;base64,AAAA"),
    "bad base64": document(image="data:image/png;base64,A"),
    "no image": document(image=data_url(b"no image")),
    "a bomb": document(image=data_url(huge_png())),
    "a number for an image": document(image=1),
    "a number for turns": document(turns=1),
    "a text for a turn": document(turns=["question"]),
    "half a turn": document(turns=[{"question": "What?"}]),
    "a number for an answer": document(turns=[{"question": "What?", "answer": 1}]),
    "blanks in its image": document(image="data:image/png;base64," + " " * 300_000 + "!"),
    "no ASCII in its image": document(image="data:image/png;base64,é"),
    "too many brackets": b"[" + b"[]," * (MAX_JSON_TOKENS // 2) + b"[]]",
    "too much text": document(
        turns=[{"question": "", "answer": "a" * MAX_CHARACTERS}] * (MAX_TEXT // MAX_CHARACTERS + 1)
    ),
    "too many turns": document(turns=[{"question": "", "answer": ""}] * (MAX_TURNS + 1)),
    "too long a turn": document(turns=[{"question": "", "answer": "a" * (MAX_CHARACTERS + 1)}]),
}


@pytest.mark.parametrize("data", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_rejected_and_opens_nothing(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"must not happen: {arguments}")

    Image.init()  # imports the formats before files are forbidden
    describe_error(ConversationFileError(""), CHINESE)
    for target in ("builtins.open", "pathlib.Path.open", "os.open"):
        monkeypatch.setattr(target, forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(VisualGLMError) as error:
        from_json(data)
    monkeypatch.undo()
    assert SCENE not in str(error.value)
    assert is_chinese(describe_error(error.value, CHINESE))


def test_too_many_parts_are_rejected_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("must not be parsed"))
    with pytest.raises(ConversationFileError, match="parts"):
        from_json(BAD_FILES["too many brackets"])


def test_too_many_bytes_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_file, "MAX_BYTES", 10)
    with pytest.raises(ConversationFileError, match="bytes"):
        from_json(document())


def test_a_lone_surrogate_is_replaced() -> None:
    (turn,) = from_json(document(turns=[{"question": "\ud800?", "answer": "\x00"}])).turns
    assert (turn.question.encode(), turn.answer) == (b"??", "\x00")

"""Conversation files: saved conversations are loaded unchanged, and invalid files are rejected."""

import base64
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from model import CHINESE, ENGLISH, VisualGLMError
from model.images.preprocess import load_image, preprocess
from tests.helpers.cli_program import SCENE, huge_png
from visualglm.web.conversation_file import (
    MAX_CHARACTERS,
    MAX_JSON_TOKENS,
    MAX_TEXT,
    ConversationFileError,
    from_json,
    to_json,
    to_markdown,
)
from visualglm.web.images import UploadedImage, UploadedImageReader
from visualglm.web.session import MAX_TURNS, ConversationState, Status, TurnState
from visualglm.web.texts import TEXTS, choose_language
from visualglm.web.uploads import UploadFolder

SIZE = 56
TURNS = [
    TurnState("图里有什么？", '一辆 <b>小汽车</b>\n\n和 "星星" 🦊', Status.DONE),
    TurnState("lost", "half", Status.STOPPED),
    TurnState("And?", "", Status.TRUNCATED),
]


@pytest.fixture
def folder() -> Iterator[UploadFolder]:
    folder = UploadFolder()
    yield folder
    folder.remove()


@pytest.fixture
def reader(folder: UploadFolder) -> Iterator[UploadedImageReader]:
    reader = UploadedImageReader(folder, SIZE)
    yield reader
    reader.close()


def scene(reader: UploadedImageReader) -> UploadedImage:
    return reader.from_file(reader.folder.save(Path(SCENE).read_bytes(), "scene.png"))


@pytest.mark.parametrize("with_image", [True, False])
def test_a_saved_conversation_is_restored(with_image: bool, folder: UploadFolder, reader: UploadedImageReader) -> None:
    saved = ConversationState(scene(reader) if with_image else None, TURNS)
    text, is_original = to_json(saved, folder)
    loaded = from_json(text.encode(), reader)
    assert is_original
    assert loaded.complete_turns == saved.complete_turns
    assert (loaded.image is not None) is with_image
    assert to_json(loaded, folder) == (text, True)


def test_an_image_whose_file_is_gone_is_saved_smaller(folder: UploadFolder, reader: UploadedImageReader) -> None:
    saved = ConversationState(scene(reader), TURNS)
    folder.remove()
    text, is_original = to_json(saved, folder)
    assert not is_original
    loaded = from_json(text.encode(), reader)
    assert loaded.image is not None
    assert loaded.image.resized.size == (SIZE, SIZE)


def test_the_text_is_saved_in_the_visitor_s_language() -> None:
    text = to_markdown(ConversationState(None, TURNS), CHINESE)
    assert "**问：** 图里有什么？" in text
    assert "lost" not in text
    assert "**Q:** And?" in to_markdown(ConversationState(None, TURNS), ENGLISH)


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
def test_a_bad_file_is_rejected_and_opens_nothing(
    data: bytes, reader: UploadedImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"must not happen: {arguments}")

    reader.decoder.warm_up()  # starts the child process before files are forbidden
    for target in ("builtins.open", "pathlib.Path.open", "os.open"):
        monkeypatch.setattr(target, forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(VisualGLMError) as error:
        from_json(data, reader)
    monkeypatch.undo()
    assert SCENE not in str(error.value)


def test_too_many_parts_are_rejected_before_they_are_parsed(
    reader: UploadedImageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("must not be parsed"))
    with pytest.raises(ConversationFileError, match="parts"):
        from_json(BAD_FILES["too many brackets"], reader)


def test_a_lone_surrogate_is_replaced(folder: UploadFolder, reader: UploadedImageReader) -> None:
    (turn,) = from_json(document(turns=[{"question": "\ud800?", "answer": "\x00"}]), reader).complete_turns
    assert (turn.question.encode(), turn.answer) == (b"??", "\x00")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_kind_of_image_survives_a_data_url(
    kind: str, folder: UploadFolder, reader: UploadedImageReader, tmp_path: Path
) -> None:
    path = tmp_path / "picture"
    load_image(SCENE).save(path, format=kind)
    image = reader.from_file(reader.folder.save(path.read_bytes(), "picture"))
    url, is_original = image.to_data_url(reader.folder)
    again = reader.from_data_url(url)
    assert is_original
    assert again.resized == image.resized
    assert again.to_data_url(reader.folder) == (url, True)


def test_a_resized_image_gives_the_same_model_input(folder: UploadFolder, reader: UploadedImageReader) -> None:
    image = load_image(SCENE)
    assert torch.equal(preprocess(scene(reader).resized, SIZE), preprocess(image, SIZE))


def test_the_original_is_not_kept_in_memory(folder: UploadFolder, reader: UploadedImageReader) -> None:
    noise = Image.effect_noise((2000, 3000), 100).convert("RGB")
    noise.save(path := folder.path / "noise.png")
    image = reader.from_file(str(path))
    assert image.memory < 2_000_000 < path.stat().st_size
    with Image.open(io.BytesIO(image.preview)) as preview:
        assert preview.size == (683, 1024)


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
def test_every_status_but_done_is_explained(texts: Any, status: Status) -> None:
    note = texts.status_note(TurnState("What?", "", status, "a1b2", 3))
    assert "3" in note.splitlines()[-1]
    assert (len(note.splitlines()) > 1) is (status not in (Status.RUNNING, Status.DONE))
    assert ("a1b2" in note) is (status in (Status.FAILED, Status.INTERNAL_ERROR))

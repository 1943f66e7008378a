"""Rows and files in the formats of other projects: each is read, or raises an error with advice."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.check import main
from finetune.data import ChatDataset
from finetune.errors import BadRowError, DataError
from finetune.formats import Row
from finetune.preparation import describe_data
from finetune.rows import read_rows
from model import Turn, load_tokenizer
from model.command_line import FAILURE
from tests.helpers.image_files import encode

QUESTION, ANSWER, SYSTEM = "图片里有什么？", "一辆紫色的小汽车。", "你是放射科医生。"
PAIR = {"prompt": QUESTION, "label": ANSWER}
REPLY = {"role": "assistant", "content": ANSWER}


def user(content: Any, **more: Any) -> dict[str, Any]:
    """Return a question in the format of OpenAI's messages."""
    return {"role": "user", "content": content, **more}


def human(value: str) -> dict[str, str]:
    """Return a question in the format of LLaVA's conversations."""
    return {"from": "human", "value": value}


def gpt(value: str = ANSWER) -> dict[str, str]:
    """Return an answer in the format of LLaVA's conversations."""
    return {"from": "gpt", "value": value}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with a.png and sub/a.png; it is not the working directory."""
    image = encode(Image.new("RGB", (4, 4)), "PNG")
    for name in ("data/a.png", "data/sub/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "data"


def read_row(folder: Path, row: Any) -> Row:
    """Write one row into a data file, and read it."""
    path = folder / "data.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    return read_rows(path)[0]


PLACEHOLDERS = [
    "<image>",
    "<IMAGE>",
    "<Image>\n",
    "<image_00>",
    "<image-1>",
    "<|image|>",
    "<|image_1|>",
    "<ImageHere>",
    "<image_placeholder>",
    "<IMG_CONTEXT>",
    "<start_of_image>",
    "<|vision_start|><|image_pad|><|vision_end|>",
    "[IMG]",
    "[img-1]",
    "<img>",
    "Image-1: <image>\n",
    "<Img><ImageHere></Img>",
    "(<image>./</image>)\n",
    "<img></img>",
]
TAGGED = [
    "<img>a.png</img>",
    "Picture 1: <img>a.png</img>\n",
    "<Img>a.png</Img>",
    "<image>a.png</image>",
    "图1：<img>a.png</img>",
    '<img src="a.png">',
    "<img src='a.png' alt='x'/>",
]
UNDERSTOOD: list[dict[str, Any]] = [
    *({"img": "a.png", **PAIR, "prompt": f"{tag}{QUESTION}"} for tag in [*PLACEHOLDERS, *TAGGED]),
    *({"images": ["a.png"], "messages": [user(f"{QUESTION}{tag}"), REPLY]} for tag in [*PLACEHOLDERS, *TAGGED]),
    *({**PAIR, "prompt": f"{tag}{QUESTION}"} for tag in TAGGED),
    *({"id": "0", "conversations": [{"from": "user", "value": f"{tag}{QUESTION}"}, gpt()]} for tag in TAGGED),
    *(
        {key: "a.png", **PAIR}
        for key in ("image_path", "Image", "IMG", "img-path", "imagePath", "image_file", "picture", "photo")
    ),
    *({key: ["a.png"], **PAIR} for key in ("imgs", "images", "Images", "image_paths", "pictures")),
    {"image": {"<image_00>": "a.png"}, "conversations": [user(f"<image_00>\n{QUESTION}"), REPLY]},
    {"image": {"path": "a.png", "bytes": None}, **PAIR},
    {"images": [{"url": "a.png"}], **PAIR},
    {"messages": [user([{"type": "image", "image": "a.png"}, {"type": "text", "text": QUESTION}]), REPLY]},
    {
        "messages": [
            user([{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": QUESTION}]),
            REPLY,
        ]
    },
    {
        "messages": [
            user([{"type": "input_image", "image_url": "file://a.png"}, {"type": "input_text", "text": QUESTION}]),
            REPLY,
        ]
    },
    {"images": ["a.png"], "messages": [user([{"type": "image"}, {"type": "text", "text": QUESTION}]), REPLY]},
    {
        "images": ["a.png"],
        "messages": [user(f"<image>{QUESTION}"), {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}],
    },
    {"img": ".\\a.png", **PAIR},
    {"img": "sub\\a.png", **PAIR},
    {"img": "data/a.png", **PAIR},
    {"img": "a.png", **PAIR, "system": "", "videos": [], "history": None},
    {"image": "a.png", "conversations": [human(f"<image>\n{QUESTION}"), gpt()], "history": []},
]


@pytest.mark.parametrize("row", UNDERSTOOD, ids=lambda row: json.dumps(row, ensure_ascii=False)[:70])
def test_an_image_is_found_and_its_tags_are_removed(row: dict[str, Any], folder: Path) -> None:
    read = read_row(folder, row)
    assert read.image is not None
    assert read.image.resolve() in (folder / "a.png", folder / "sub" / "a.png")
    assert read.turns == [Turn(QUESTION, ANSWER)]


@pytest.mark.parametrize(
    "row",
    [
        {"system": SYSTEM, "images": ["a.png"], "messages": [user(f"<image>{QUESTION}"), REPLY]},
        {"system": SYSTEM, "images": ["a.png"], "conversations": [human(QUESTION), gpt()]},
        {"system": SYSTEM, "img": "a.png", **PAIR},
        {"images": ["a.png"], "messages": [{"role": "developer", "content": SYSTEM}, user(QUESTION), REPLY]},
    ],
)
def test_a_system_text_goes_before_the_first_question(row: dict[str, Any], folder: Path) -> None:
    assert read_row(folder, row).turns == [Turn(f"{SYSTEM}\n{QUESTION}", ANSWER)]


def test_a_system_text_goes_before_the_history(folder: Path) -> None:
    row = read_row(folder, {"system": SYSTEM, **PAIR, "history": [user("甲"), REPLY]})
    assert row.turns == [Turn(f"{SYSTEM}\n甲", ANSWER), Turn(QUESTION, ANSWER)]
    assert row.first_trained_turn == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(
        ({"img": "a.png", **PAIR, "label": f"{tag}\n{ANSWER}"}, '"answer" has the image tag')
        for tag in (*PLACEHOLDERS, *TAGGED[:5])
    ),
    (
        {"image": "a.png", "conversations": [human(QUESTION), gpt(f"<image>\n{ANSWER}")]},
        '"answer" has the image tag',
    ),
    ({"system": "<image>", "img": "a.png", **PAIR}, '"system" has the image tag'),
    ({"img": "a.png", **PAIR, "history": [["甲", "<image>"]]}, '"history" has the image tag'),
    ({**PAIR, "prompt": f"<IMAGE>{QUESTION}"}, 'no image. Give the path of the image as "img"'),
    ({**PAIR, "history": [["<image>甲", "乙"]]}, "no image"),
    ({"img": "a.png", **PAIR, "prompt": "<image><image_1>甲"}, "2 image tags"),
    ({"img": "a.png", **PAIR, "prompt": "<img>sub/a.png</img>甲"}, "it has 2 images; the model supports one"),
    ({**PAIR, "prompt": "<img>a.png</img><img>sub/a.png</img>甲"}, "it has 2 images"),
    ({"images": ["a.png", "a.png"], "messages": [user(f"<image><image>{QUESTION}"), REPLY]}, "it has 2 images"),
    ({"img": "a.png", "Image": "sub/a.png", **PAIR}, "it has 2 images"),
    ({**PAIR, "prompt": "<img>none.png</img>甲"}, "'none.png' was found neither"),
    ({**PAIR, "prompt": "<img>https://example.org/a.png</img>甲"}, "is a URL. Download it"),
    ({"image": {"bytes": "iVBOR"}, **PAIR}, "its image is .* not a path"),
    ({"img": "data:image/png;base64,iVBOR", **PAIR}, "is a data URL. Write it to a file"),
    ({"file_name": "a.png", **PAIR}, r'its "file_name" is .*looks like an image.*Rename it "img"'),
    ({"image_url": "https://example.org/1", **PAIR}, 'its "image_url" is .*Rename it "img"'),
    ({"media": ["a.JPG"], "messages": [user(QUESTION), REPLY]}, 'its "media" is .*Rename it "img"'),
    ({"img": "C:\\photos\\none.png", **PAIR}, "It is a Windows path"),
    ({"img": "photos\\none.png", **PAIR}, "It is a Windows path"),
    ({"videos": ["a.mp4"], **PAIR}, 'it has a "videos"; the model supports only images'),
    ({**PAIR, "prompt": f"<video>{QUESTION}"}, "it has <video>; the model supports only images"),
    ({"messages": [user([{"type": "video", "video": "a.mp4"}]), REPLY]}, "is neither a text nor an image"),
    ({"messages": [user([{"type": "text"}]), REPLY]}, "is neither a text nor an image"),
    (
        {"messages": [user(QUESTION), {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}]},
        "of another role than user",
    ),
    (
        {"messages": [user("甲"), REPLY, {"role": "system", "content": SYSTEM}, user("甲"), REPLY]},
        "a system message after the first",
    ),
    ({"system": SYSTEM, "messages": [{"role": "system", "content": SYSTEM}, user("甲"), REPLY]}, "Keep one of them"),
    ({"system": 5, **PAIR}, 'its "system" is 5, not a text'),
    ({"history": [["甲", "乙"]], "messages": [user("甲"), REPLY]}, 'both "history" and "messages". Move the'),
    ({"ask": QUESTION, "reply": ANSWER}, r"neither .* Its keys are \['ask', 'reply'\]"),
]


@pytest.mark.parametrize(("row", "reason"), REFUSED, ids=lambda value: json.dumps(value, ensure_ascii=False)[:70])
def test_a_row_of_unknown_format_raises_an_error_with_advice(row: dict[str, Any], reason: str, folder: Path) -> None:
    with pytest.raises(BadRowError, match=reason) as caught:
        read_row(folder, row)
    assert len(str(caught.value)) < 400


def test_other_words_in_angle_brackets_are_kept(folder: Path) -> None:
    html = '<div><img src="b.png"><picture></picture></div>'
    row = read_row(folder, {"img": "a.png", "prompt": "What does <imagine> mean in <b>this</b>?", "label": html})
    assert row.turns == [Turn("What does <imagine> mean in <b>this</b>?", html)]


LINE = json.dumps({"img": "a.png", **PAIR}, ensure_ascii=False)
FILES = [
    (LINE.encode("gbk"), BadRowError, "may be GBK; convert the file: iconv -f GBK"),
    (f"[{LINE}]".encode("gbk"), DataError, "may be GBK; convert the file: iconv -f GBK"),
    (LINE.encode("utf-16"), DataError, "text in UTF-16. Convert it: iconv"),
    (f"[{LINE}]".encode("utf-16-le"), DataError, "text in UTF-16. Convert it: iconv -f UTF-16LE"),
    (LINE.encode("utf-16-be"), DataError, "text in UTF-16. Convert it: iconv -f UTF-16BE"),
    (LINE.encode("utf-32"), DataError, "text in UTF-32. Convert it: iconv"),
    (gzip.compress(LINE.encode(), mtime=0), DataError, "compressed by gzip. Unpack it"),
    (bz2.compress(LINE.encode()), DataError, "compressed by bzip2. Unpack it"),
    (b"PK\x03\x04rest", DataError, "a zip archive"),
    (
        json.dumps(json.loads(LINE), indent=2).encode(),
        DataError,
        r"one object over several lines. Put brackets around it",
    ),
    (json.dumps({"train": [PAIR]}, indent=2).encode(), DataError, 'whose rows may be in "train". Save only that list'),
    (json.dumps({"messages": [user("甲"), REPLY]}, indent=2).encode(), DataError, "Put brackets around it"),
    (repr(json.loads(LINE)).encode(), BadRowError, "single quotes.* Write it with json.dump"),
    (repr([json.loads(LINE)]).encode(), DataError, "single quotes.* Write it with json.dump"),
]


@pytest.mark.parametrize(("content", "error", "reason"), FILES, ids=lambda value: str(value)[:40])
def test_an_error_describes_a_file_of_another_format(
    content: bytes, error: type[Exception], reason: str, folder: Path
) -> None:
    path = folder / "data.json"
    path.write_bytes(content)
    with pytest.raises(error, match=reason):
        list(read_rows(path))


@pytest.mark.parametrize("tail", ["", "\n", f"\n{LINE}\n"])
def test_a_single_object_on_a_line_is_a_row(tail: str, folder: Path) -> None:
    (folder / "data.json").write_text(LINE + tail, encoding="utf-8")
    assert next(iter(read_rows(folder / "data.json"))).turns == [Turn(QUESTION, ANSWER)]


def test_ignored_keys_are_counted_by_check_and_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"img": "a.png", **PAIR, "id": 1, "wieght": 2},
        {"image_path": "a.png", "messages": [user(QUESTION), {**REPLY, "loss": False}], "id": 2, "language": "zh"},
        {**PAIR, "id": 3, "img": "none.png"},
    ]
    path = folder / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert main(["check", str(path)]) == FAILURE
    dataset = ChatDataset(
        path, load_tokenizer("visualglm-tiny"), image_length=4, image_size=8, max_length=512, on_bad_row="skip"
    )
    for output in (capsys.readouterr().out, describe_data([dataset])):
        for part in ('"id" (2 rows)', '"wieght" (1 rows)', '"messages[].loss" (1 rows)'):
            assert part in output
        for name in ("img", "prompt", "image_path", "language"):
            assert f'"{name}" (' not in output

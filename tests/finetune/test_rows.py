"""Every format of a row is read, and every error of the data names its row."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import BadRowError, DataError
from finetune.rows import read_rows
from model import CHINESE, ENGLISH, Turn
from tests.helpers.image_files import encode

ROOT = Path(__file__).parents[2]
GOOD = {"prompt": "问题", "label": "回答"}
REPLY = {"role": "assistant", "content": "乙"}
TALK = [{"from": "human", "value": "甲"}, {"from": "gpt", "value": "乙"}]
WRITERS = {
    "list": lambda rows: json.dumps(rows, ensure_ascii=False),
    "indented": lambda rows: json.dumps(rows, ensure_ascii=False, indent=2),
    "escaped": lambda rows: json.dumps(rows),
    "lines": lambda rows: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    "windows": lambda rows: "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows),
    "list_windows": lambda rows: "\ufeff" + json.dumps(rows, ensure_ascii=False, indent=1).replace("\n", "\r\n"),
}


def write(folder: Path, text: str | bytes) -> Path:
    """Write a file of training data."""
    path = folder / "data.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read_one(folder: Path, row: Any) -> Any:
    return read_rows(write(folder, json.dumps([row])))[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the image a.png; the working directory is another one, with b.png."""
    from PIL import Image

    for place, name in ((tmp_path / "data", "a.png"), (tmp_path / "work", "b.png")):
        place.mkdir()
        (place / name).write_bytes(encode(Image.new("RGB", (4, 4)), "PNG"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "data"


@pytest.mark.parametrize("writer", WRITERS)
def test_all_formats_hold_the_same_rows(writer: str, folder: Path) -> None:
    told = [{"prompt": f"第{number}问 😀", "label": f'答"{number}"\n\\'} for number in range(5)]
    rows = read_rows(write(folder, WRITERS[writer](told)))
    assert [row.turns for row in rows] == [[Turn(row["prompt"], row["label"])] for row in told]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert rows[3].turns[0].question == "第3问 😀"


def test_rows_of_json_lines_have_line_numbers(folder: Path) -> None:
    line = json.dumps(GOOD)
    rows = read_rows(write(folder, f"\n{line}\n\n  \n{line}\nnonsense\n"))
    assert rows.offsets.numbers.tolist() == [2, 5, 6]
    with pytest.raises(BadRowError, match=r"Row 6: .*nonsense"):
        rows[2]


@pytest.mark.parametrize(
    "row",
    [
        {"img": "a.png", **GOOD},
        {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\n甲"}, TALK[1]]},
        {"image": "a.png", "conversations": TALK},
        {"images": ["a.png"], "messages": [{"role": "user", "content": "甲<image>"}, REPLY]},
        {"images": ["a.png"], "conversations": TALK, "id": "x", "img": None},
    ],
)
def test_formats_with_an_image(row: dict[str, Any], folder: Path) -> None:
    read = read_one(folder, row)
    assert read.image == folder / "a.png"
    assert read.turns in ([Turn("问题", "回答")], [Turn("甲", "乙")])
    assert read.first_trained_turn == 0


@pytest.mark.parametrize("no_image", [{}, {"img": ""}, {"img": None}, {"images": []}])
def test_rows_without_an_image(no_image: dict[str, Any], folder: Path) -> None:
    assert read_one(folder, {**GOOD, **no_image}).image is None


def test_answers_of_a_history_are_not_trained_on(folder: Path) -> None:
    row = read_one(folder, {**GOOD, "history": [["甲", "乙"], [" 丙\n", "丁"]]})
    assert row.turns == [Turn("甲", "乙"), Turn("丙", "丁"), Turn("问题", "回答")]
    assert row.first_trained_turn == 2


def test_a_system_message_goes_before_the_first_question(folder: Path) -> None:
    messages = [{"from": "system", "value": "你是医生。"}, *TALK, *TALK]
    assert read_one(folder, {"conversations": messages}).turns == [Turn("你是医生。\n甲", "乙"), Turn("甲", "乙")]


def test_the_language_is_the_questions_unless_the_row_has_one(folder: Path) -> None:
    talk = [Turn("图里有什么？", "A ball."), Turn("Where?", "左边。")]
    row = {"prompt": talk[1].question, "label": talk[1].answer, "history": [[talk[0].question, talk[0].answer]]}
    assert [read_one(folder, row).language_of(turn) for turn in range(2)] == [CHINESE, ENGLISH]
    for code, language in (("zh", CHINESE), ("en", ENGLISH)):
        assert read_one(folder, {**row, "language": code}).language_of(1) is language


def test_a_path_is_relative_to_the_file_or_the_working_directory(folder: Path) -> None:
    assert read_one(folder, {**GOOD, "img": "a.png"}).image.samefile(folder / "a.png")
    assert read_one(folder, {**GOOD, "img": "b.png"}).image.samefile("b.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    assert read_one(folder, {**GOOD, "img": "b.png"}).image.samefile(folder / "b.png")
    assert read_one(folder, {**GOOD, "img": str(folder / "a.png")}).image == folder / "a.png"


BAD = [
    (5, "it is 5, not an object"),
    ([GOOD], "not an object"),
    (None, "it is None, not an object"),
    ({}, 'neither "prompt" and "label" nor "conversations"'),
    ({"prompt": "甲"}, 'neither "prompt" and "label"'),
    ({"prompt": "甲", "label": ""}, 'its "label" is empty'),
    ({"prompt": "甲", "label": " \n"}, 'its "label" is empty'),
    ({"prompt": "", "label": "乙"}, 'its "prompt" is empty'),
    ({"prompt": "甲", "label": 3}, 'its "label" is 3, not a text'),
    ({"prompt": ["甲"], "label": "乙"}, 'its "prompt" is .* not a text'),
    ({**GOOD, "img": "none.png"}, "'none.png' was found neither in"),
    ({**GOOD, "img": "."}, "'.' was found neither"),
    ({**GOOD, "img": "a\0.png"}, "was found neither"),
    ({**GOOD, "img": "x" * 5000}, "was found neither"),
    ({**GOOD, "img": "https://example.org/a.png"}, "is a URL. Download it"),
    ({**GOOD, "img": 7}, "its image is 7, not a path"),
    ({**GOOD, "images": ["a.png", "a.png"]}, "it has 2 images"),
    ({**GOOD, "img": "a.png", "image": "a.png"}, "it has 2 images"),
    ({**GOOD, "history": "甲"}, "The history is of type str"),
    ({**GOOD, "history": [["甲"]]}, r"history\[0\] cannot be used: It has 1 parts"),
    ({**GOOD, "history": [["甲", None]]}, r"history\[0\] cannot be used: The answer is of type NoneType"),
    ({**GOOD, "language": "de"}, "its \"language\" is 'de'; it should be one of zh, en"),
    ({**GOOD, "language": []}, 'its "language" is'),
    ({"conversations": []}, "is not a list of messages"),
    ({"messages": "甲"}, "is not a list of messages"),
    ({"messages": ["甲"]}, "'甲', which is not a message"),
    ({"messages": [{"role": "tool", "content": "甲"}]}, "which is not a message"),
    ({"messages": [{"role": [], "content": "甲"}]}, "which is not a message"),
    ({"messages": [{"role": "user", "content": ["甲"]}]}, "which is neither a text nor an image"),
    ({"conversations": TALK[:1]}, "alternating questions and answers"),
    ({"conversations": TALK[::-1]}, "alternating questions and answers"),
    ({"conversations": [*TALK, TALK[0]]}, "alternating questions and answers"),
    ({"conversations": [TALK[0], TALK[0], TALK[1]]}, "alternating questions and answers"),
    ({"conversations": [{"from": "system", "value": "甲"}]}, "alternating questions and answers"),
    ({"conversations": [TALK[0], {"from": "gpt", "value": ""}]}, 'its "answer" is empty'),
    ({"image": "a.png", "conversations": [{"from": "human", "value": "<image>"}, TALK[1]]}, 'its "question" is empty'),
    ({"conversations": [{"from": "human", "value": "<image>甲"}, TALK[1]]}, "1 image tags .*, but no image"),
    ({"image": "a.png", "conversations": [{"from": "human", "value": "<image><image>甲"}, TALK[1]]}, "but one image"),
]  # fmt: skip


@pytest.mark.parametrize("writer", ["list", "lines"])
@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_raises_an_error_and_others_are_read(row: Any, reason: str, writer: str, folder: Path) -> None:
    rows = read_rows(write(folder, WRITERS[writer]([GOOD, row, GOOD])))
    with pytest.raises(BadRowError, match=reason) as caught:
        rows[1]
    assert caught.value.number == 2
    assert len(str(caught.value)) < 400
    assert rows[0].turns == rows[2].turns == [Turn("问题", "回答")]


LINE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    "line",
    [
        LINE[:-1],
        b'{"prompt": "a" "label": "b"}',
        LINE.replace(b"prompt", "prompt 问".encode("gbk")),
        b"[" * 100_000,
        b'{"prompt": ' + b"9" * 5000 + b', "label": "b"}',
        b"\x00\x01\x02",
        "a,b,c,问".encode(),
    ],
)
def test_a_broken_line_raises_an_error_and_others_are_read(line: bytes, folder: Path) -> None:
    rows = read_rows(write(folder, b"\n".join([LINE, line, LINE])))
    with pytest.raises(BadRowError, match=r"Row 2: .*JSON") as caught:
        rows[1]
    assert len(str(caught.value)) < 400
    assert len(rows) == 3
    assert rows[0].turns == rows[2].turns


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no rows"),
        (b"\n \n", "has no rows"),
        (b"[]", "has no rows"),
        (b"[ ", "cannot be read after its row 0"),
        (b"[" + LINE, "cannot be read after its row 1"),
        (b"[" + LINE + b" " + LINE + b"]", "cannot be read after its row 1"),
        (b"[" + LINE + b"," + LINE[:-3], "cannot be read after its row 1"),
        (b"[" + LINE + b"]" + LINE, "cannot be read after its row 1"),
        (b"[" * 100_000, "cannot be read after its row 0"),
        (b'["' + "问".encode("gbk") + b'"]', "cannot be read after its row 0"),
    ],
)
def test_a_file_that_is_no_list_of_rows_is_refused(content: bytes, reason: str, folder: Path) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_rows(write(folder, content))
    assert "Use JSON lines" in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(folder: Path) -> None:
    for path in (folder / "none.json", folder):
        with pytest.raises(DataError, match="cannot be read"):
            read_rows(path)


def test_errors_can_be_pickled() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(BadRowError(7, "it is bad")))
    assert (again.number, again.reason, str(again)) == (7, "it is bad", "Row 7: it is bad")


COUNT_MEMORY = """
import pathlib, re, sys
from finetune.data import ChatDataset
from model import load_tokenizer
def peak():  # getrusage would include the parent process before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
tokenizer = load_tokenizer("visualglm-tiny")
before = peak()
dataset = ChatDataset(sys.argv[1], tokenizer, image_length=32, image_size=224, max_length=512)
assert "99999" in tokenizer.decode_text(dataset[99_999].input_ids)
print(len(dataset), before, peak())
"""


@pytest.mark.slow
def test_100_000_rows_take_little_memory(folder: Path) -> None:
    path = folder / "many.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(100_000):
            row = {"img": "a.png", "prompt": f"第{number}张图片里有什么？", "label": "一个很长的回答。" * 30}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", COUNT_MEMORY, path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    count, before, after = map(int, done.stdout.split())
    assert count == 100_000
    assert after < 1_000_000  # kilobytes, including torch and the tokenizer
    assert after - before < 40_000  # as strings, their texts would have 50 MB

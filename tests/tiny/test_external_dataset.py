"""External datasets are read, graded and swapped; errors in them are reported with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tiny.evaluation.external_dataset import QuestionFileError, read_questions

QUESTION = {"question": "Where is the ball?", "accepted": ["left"]}


def write_lines(folder: Path, *lines: Any, name: str = "questions.jsonl") -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(texts), encoding="utf-8")
    return folder


def save_picture(folder: Path, name: str, color: str) -> str:
    Image.new("RGB", (20, 10), color).save(folder / name)
    return name


def test_files_are_read_in_order_with_all_fields(tmp_path: Path) -> None:
    image = save_picture(tmp_path, "red.png", "red")
    full = {
        **{"image": image, "question": "它在哪里？", "history": [["有球吗？", "有。"]], "accepted": ["左边", "左"]},
        **{"kind": "follow_up", "language": "zh", "note": "ignored"},
    }
    write_lines(tmp_path, full, "", QUESTION, name="b.jsonl")
    write_lines(tmp_path, {"question": "球是什么颜色的？", "answer": "红色"}, name="a.jsonl")
    first, second, third = read_questions(tmp_path)
    assert (first.text, first.language, first.kind, first.image) == ("球是什么颜色的？", "zh", "unnamed", None)
    assert (second.history, second.kind, second.answers) == ((("有球吗？", "有。"),), "follow_up", ("左边", "左"))
    assert second.image is not None
    assert second.image.load().getpixel((0, 0)) == (255, 0, 0)
    assert (third.text, third.language) == ("Where is the ball?", "en")


@pytest.mark.parametrize("name", ["accepted", "answers", "accepted_answers", "answer"])
@pytest.mark.parametrize("given", ["two", ["three", "two"], 2, [3, 2]])
def test_accepted_answers_come_under_several_names(tmp_path: Path, name: str, given: Any) -> None:
    (question,) = read_questions(write_lines(tmp_path, {"question": "How many balls are there?", name: given}))
    assert question.is_correct("There are two balls.")
    assert not question.is_correct("There are four balls.")


def test_a_language_that_is_given_counts(tmp_path: Path) -> None:
    (question,) = read_questions(write_lines(tmp_path, {**QUESTION, "question": "Is 球 there?", "language": "en"}))
    assert question.language == "en"


def test_an_image_is_swapped_only_for_one_with_another_accepted_answer(tmp_path: Path) -> None:
    red, blue = save_picture(tmp_path, "red.png", "red"), save_picture(tmp_path, "blue.png", "blue")
    green = save_picture(tmp_path, "green.png", "green")
    answers = {red: "left", green: "left", blue: "right"}
    lines = [{**QUESTION, "image": image, "accepted": accepted} for image, accepted in answers.items()]
    questions = read_questions(write_lines(tmp_path, *lines, QUESTION))
    shown = [question.swapped_image and question.swapped_image.name for question in questions]
    assert shown[:2] == [blue, blue]
    assert shown[2] in (red, green)
    assert shown[3] is None


def test_questions_of_several_files_may_have_the_same_keys(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path, {**QUESTION, "id": "1"}, name=name)
    assert len({question.key for question in read_questions(tmp_path)}) == 2


def test_a_single_image_has_no_swapped_image(tmp_path: Path) -> None:
    image = save_picture(tmp_path, "red.png", "red")
    questions = read_questions(write_lines(tmp_path, {**QUESTION, "image": image}, {**QUESTION, "image": image}))
    assert [question.swapped_image for question in questions] == [None, None]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"question": "\\ud83d", "accepted": ["a"]}', "not JSON"),
        ({"accepted": ["left"]}, '"question"'),
        ({"question": " ", "accepted": ["left"]}, '"question"'),
        ({"question": "Where?"}, "no accepted answer"),
        ({"question": "Where?", "accepted": []}, "no accepted answer"),
        ({"question": "Where?", "accepted": ["left", ""]}, "no accepted answer"),
        ({"question": "Where?", "accepted": [True]}, '"accepted"'),
        ({"question": "Where?", "accepted": {"zh": "左"}}, '"accepted"'),
        ({**QUESTION, "language": "fr"}, '"language"'),
        ({**QUESTION, "kind": ["a"]}, '"kind"'),
        ({**QUESTION, "kind": "a\nb"}, '"kind"'),
        ({**QUESTION, "history": ["Is there a ball?"]}, '"history"'),
        ({**QUESTION, "history": [["Is there a ball?", 1]]}, '"history"'),
        ({**QUESTION, "image": ["a.png"]}, '"image"'),
        ({**QUESTION, "image": "missing.png"}, "missing.png"),
        ({**QUESTION, "image": "questions.jsonl"}, "questions.jsonl"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: Any, complaint: str) -> None:
    write_lines(tmp_path, QUESTION, "", line)
    with pytest.raises(QuestionFileError) as caught:
        read_questions(tmp_path)
    assert "questions.jsonl, row 3: " in str(caught.value)
    assert complaint in str(caught.value).partition("row 3: ")[2]


def test_a_folder_without_questions_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuestionFileError, match="folder"):
        read_questions(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("no question")
    with pytest.raises(QuestionFileError, match="questions"):
        read_questions(tmp_path)
    write_lines(tmp_path, "", "")
    with pytest.raises(QuestionFileError, match="questions"):
        read_questions(tmp_path)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionFileError, match=r"bytes\.jsonl"):
        read_questions(tmp_path)

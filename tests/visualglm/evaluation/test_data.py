"""Question files of every format are recognized and read lazily; errors name the file and the row."""

import base64
import io
import json
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.rows import read_rows
from model.errors import ImageError, VisualGLMError
from visualglm.evaluation.data import Question, draw_questions, open_questions
from visualglm.evaluation.errors import EvaluationError, QuestionFileError


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_image(path: Path, color: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(color))


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    write_image(tmp_path / "images/a.jpg")
    rows = [
        {"question_id": number, "image": "a.jpg", "text": f"Is there a {thing} in the image?", "label": label}
        for number, (thing, label) in enumerate([("dog", "yes"), ("cat", "no")], start=1)
    ]
    return write_lines(tmp_path / "coco_pope_popular.json", *rows)


def test_pope(pope: Path) -> None:
    file = open_questions(pope)
    first, second = file
    assert file.task == "pope"
    assert (first.key, first.answers, first.kind, first.group) == ("1", ("yes",), "popular", "a.jpg")
    assert second.answers == ("no",)
    assert first.image is not None
    assert first.image.load().size == (32, 24)


@pytest.mark.parametrize("separate", [False, True])
def test_mme(tmp_path: Path, separate: bool) -> None:
    category = tmp_path / "MME/existence"
    write_image(category / ("images/0001.png" if separate else "0001.png"))
    text = category / ("questions_answers_YN/0001.txt" if separate else "0001.txt")
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n")
    file = open_questions(tmp_path / "MME")
    questions = [*file]
    assert file.task == "mme"
    assert [question.answers for question in questions] == [("yes",), ("no",)]
    assert {question.kind for question in questions} == {"existence"}
    assert len({question.group for question in questions}) == 1
    assert len({question.key for question in questions}) == 2


def write_vqa(folder: Path) -> Path:
    write_image(folder / "val2014/COCO_val2014_000000000042.jpg")
    questions = [{"question_id": 420, "image_id": 42, "question": "What color is it?"}]
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    answers = [{"answer": "red" if number else "dark red", "answer_id": number} for number in range(10)]
    annotations = [{"question_id": 420, "image_id": 42, "answers": answers, "answer_type": "other"}]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return path


def test_vqa_finds_its_annotations(tmp_path: Path) -> None:
    file = open_questions(write_vqa(tmp_path), images=tmp_path / "val2014")
    (question,) = file
    assert file.task == "vqa"
    assert question.answers == ("dark red", *["red"] * 9)
    assert question.kind == "other"


def test_vqa_without_annotations_says_so(tmp_path: Path) -> None:
    path = write_vqa(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(QuestionFileError, match="annotations"):
        list(open_questions(path, images=tmp_path / "val2014"))


def test_captions(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [{"id": n, "image_id": 7, "caption": text} for n, text in enumerate(["A dog.", "One dog."])],
    }
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps(content, indent=1))
    file = open_questions(path)
    (question,) = file
    assert file.task == "captions"
    assert question.answers == ("A dog.", "One dog.")
    assert next(iter(open_questions(path, question="描述这张图片。"))).text == "描述这张图片。"


def write_table(path: Path, *rows: list[str]) -> Path:
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    path.write_text("\n".join("\t".join(row) for row in [columns, *rows]) + "\n", encoding="utf-8")
    return path


def test_table_with_embedded_images(tmp_path: Path) -> None:
    red, blue = (base64.b64encode(png(color)).decode() for color in ("red", "blue"))
    path = write_table(
        tmp_path / "MMBench.tsv",
        ["0", '"Which\ncolor? 颜色"', "", "red", "blue", "", "", "A", "color", red],
        ["1", "Which color?", "Look.", "red", "blue", "green", "", "B", "color", blue],
        ["1000000", "Which color?", "", "blue", "red", "", "", "B", "color", "0"],
    )
    file = open_questions(path)
    first, second, third = file
    assert file.task == "choices"
    assert first.text == "Which\ncolor? 颜色"
    assert [choice.letter for choice in second.choices] == ["A", "B", "C"]
    assert second.accepted_texts() == ("blue",)
    assert second.prompt().startswith("Hint: Look.\nQuestion: Which color?\nOptions:\nA. red\n")
    assert third.group == first.group != second.group
    for question, color in ((first, (255, 0, 0)), (second, (0, 0, 255)), (third, (255, 0, 0))):
        assert question.image is not None
        assert question.image.load().getpixel((0, 0)) == color


def test_table_with_an_unknown_option_names_the_row(tmp_path: Path) -> None:
    image = base64.b64encode(png("red")).decode()
    path = write_table(tmp_path / "a.tsv", ["0", "Which?", "", "red", "blue", "", "", "C", "color", image])
    with pytest.raises(QuestionFileError, match=r"a\.tsv, row 1") as caught:
        list(open_questions(path))
    assert caught.value.row == 1


def test_several_images_in_a_row_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.tsv", ["0", "Which?", "", "red", "blue", "", "", "A", "color", "['AAAA', 'BBBB']"])
    with pytest.raises(QuestionFileError, match="several images"):
        list(open_questions(path))


def test_broken_base64_is_an_image_error(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.tsv", ["0", "Which?", "", "red", "blue", "", "", "A", "color", "A" * 65])
    (question,) = open_questions(path)
    assert question.image is not None
    with pytest.raises(ImageError):
        question.image.load()


def test_llava_bench(tmp_path: Path) -> None:
    write_image(tmp_path / "images/001.jpg")
    row = {"question_id": 0, "image": "001.jpg", "text": "What is it?", "category": "conv"}
    path = write_lines(tmp_path / "questions.jsonl", row)
    answers = write_lines(tmp_path / "answers.jsonl", {"question_id": 0, "text": "A red image."})
    file = open_questions(path, annotations=answers)
    (question,) = file
    assert (file.task, question.answers, question.kind) == ("llava-bench", ("A red image.",), "conv")


def test_own_questions(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    history = [["有球吗？", "有。"]]
    path = write_lines(
        tmp_path / "questions.jsonl",
        {"image": "a.png", "question": "球在哪里？", "accepted": ["左"], "kind": "where", "history": history},
        {"question": "2 + 2?", "answer": 4},
    )
    file = open_questions(path)
    first, second = file
    assert file.task == "questions"
    assert first.history == (("有球吗？", "有。"),)
    assert second.image is None
    assert second.answers == ("4",)
    assert second.cluster == second.key


def test_training_rows(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    path = write_lines(
        tmp_path / "dataset.jsonl",
        {"img": "a.png", "prompt": "What?", "label": "Red."},
        {
            "image": "a.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "Red."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
    )
    file = open_questions(path, read_rows=read_rows)
    questions = [*file]
    assert file.task == "training"
    assert [question.key for question in questions] == ["1", "2.1", "2.2"]
    assert questions[2].history == (("What?", "Red."),)
    with pytest.raises(EvaluationError, match="read_rows"):
        list(open_questions(path))


def test_scenes_are_drawn_with_their_questions() -> None:
    questions = [*draw_questions(2)]
    assert {question.language for question in questions} == {"zh", "en"}
    assert len({question.group for question in questions}) == 2
    assert len({question.key for question in questions}) == len(questions)
    assert questions[0].image is not None
    assert pickle.loads(pickle.dumps(questions[0])) == questions[0]
    assert questions[0].image.load().mode == "RGB"


def test_rows_are_read_lazily(pope: Path) -> None:
    with pope.open("a") as file:
        file.write("no JSON\n")
    assert len([*islice(open_questions(pope), 2)]) == 2
    with pytest.raises(QuestionFileError, match="row 3"):
        list(open_questions(pope))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question_id": 1, "image": "b.jpg", "text": "Is there?", "label": "no"}, "b.jpg"),
        ({"question_id": 1, "image": "a.jpg", "text": "Is there?", "label": "maybe"}, "label"),
        ({"question_id": 1, "image": "a.jpg", "label": "no", "text": [1]}, "text"),
        ([1], "object"),
    ],
)
def test_errors_name_file_and_row(pope: Path, row: Any, reason: str) -> None:
    with pope.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(QuestionFileError, match=r"coco_pope_popular\.json, row 3: ") as caught:
        list(open_questions(pope))
    assert reason in caught.value.reason
    assert isinstance(caught.value, VisualGLMError)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


@pytest.mark.parametrize("content", ["", "hello\n", '{"a": 1}\n', "[1]\n", "\xff".join("ab")])
def test_unknown_formats_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(QuestionFileError, match=r"file\.json"):
        open_questions(path)


def test_unknown_task_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="pope"):
        open_questions(tmp_path, "nonsense")
    with pytest.raises(QuestionFileError, match="exist"):
        open_questions(tmp_path / "absent.json")


def test_a_list_is_read_as_lines_are(pope: Path) -> None:
    rows = [json.loads(line) for line in pope.read_text().splitlines()]
    as_lines: list[Question] = [*open_questions(pope)]
    pope.write_text(json.dumps(rows, indent=2))
    assert [*open_questions(pope)] == as_lines


def test_nothing_imports_torch() -> None:
    code = "import sys, visualglm.evaluation.data, visualglm.evaluation.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

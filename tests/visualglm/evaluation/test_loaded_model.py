"""A loaded model answers questions in several conditions; a question that cannot be answered is named."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.tiny.evaluation_data import ScriptedModel
from visualglm.evaluation.answers import AnswerRow
from visualglm.evaluation.data import ImageFile, Question
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.loaded_model import answer_questions
from visualglm.evaluation.question_tasks import OWN, QuestionTasks
from visualglm.evaluation.report import WITHOUT_IMAGE


def make_tasks(folder: Path) -> QuestionTasks:
    """Return the tasks of a question with its image and without it; the image is still to be saved."""
    image = ImageFile("a.png", folder / "a.png")
    return QuestionTasks(folder, [Question("1", image, "What?")], {OWN: {"1": image}, WITHOUT_IMAGE: {"1": None}})


def test_answers_come_with_their_conditions(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    model: Any = ScriptedModel(["red", "nothing"])
    answers = dict(answer_questions(model, make_tasks(tmp_path), {"temperature": 0, "max_new_tokens": 7}))
    assert answers == {OWN: AnswerRow("1", "red"), WITHOUT_IMAGE: AnswerRow("1", "nothing")}
    (own, _, config), (without, _, _) = model.asked
    assert own.image.getpixel((0, 0)) == (255, 0, 0)
    assert without.image is None
    assert (config.temperature, config.max_new_tokens) == (0, 7)


def test_an_image_that_cannot_be_read_names_its_question(tmp_path: Path) -> None:
    model: Any = ScriptedModel([])
    with pytest.raises(EvaluationError, match="question 1"):
        list(answer_questions(model, make_tasks(tmp_path), {}))

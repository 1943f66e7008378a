"""Answers are grouped by how much less likely they are without their images."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.visualglm.evaluation.helpers import answered
from visualglm.evaluation.answers import AnswerRow
from visualglm.evaluation.data import ImageFile, Question
from visualglm.evaluation.reliance import area_under_roc, calibrate_reliance, plain_images, to_reliances


def test_groups_hold_the_answers_between_their_limits() -> None:
    rows = [answered("yes", key=str(number)) for number in range(5)]
    reliances = {"0": -1.0, "1": 0.5, "2": 7.0, "3": 7.5}  # the last answer has none
    found = calibrate_reliance(rows, np.array([0, 1, 1, 0.0, 1]), reliances)
    assert found is not None
    assert [group.count for group in found.groups] == [1, 1, 0, 0, 2, 0]
    assert [group.accuracy for group in found.groups if group.count] == [0, 1, 0.5]
    assert (found.groups[0].low, found.groups[-1].high) == (None, None)
    # By hand: of the pairs of a right and a wrong answer, (0.5, -1) and (7, -1) are in order.
    assert found.auroc == 0.5


def test_without_reliance_or_wrong_answers_there_is_no_number() -> None:
    rows = [answered("yes", key="1")]
    assert calibrate_reliance(rows, np.array([1.0]), {}) is None
    assert calibrate_reliance(rows, np.array([math.nan]), {"1": 1.0}) is None
    found = calibrate_reliance(rows, np.array([1.0]), {"1": 1.0})
    assert found is not None
    assert math.isnan(found.auroc)


def test_reliance_is_the_difference_of_the_scores() -> None:
    own = [AnswerRow("1", "", None, (-0.5,)), AnswerRow("2", "", None, (-1.0,))]
    assert to_reliances(own, [AnswerRow("1", "", None, (-3.0,))]) == {"1": pytest.approx(2.5)}


def test_a_plain_image_has_the_mean_color(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (200, 0, 0))
    image.putpixel((0, 0), (100, 0, 50))
    image.save(tmp_path / "a.png")
    questions = [Question("1", ImageFile("a.png", tmp_path / "a.png"), "What?"), Question("2", None, "What?")]
    plain = plain_images(questions)
    assert list(plain) == ["1"]
    assert plain["1"] is not None
    assert plain["1"].load().getcolors() == [(16 * 16, (150, 0, 25))]


@pytest.mark.parametrize(
    ("right", "wrong", "area"), [([2.0, 3.0], [0.0, 1.0], 1.0), ([0.0], [1.0], 0.0), ([1.0, 0.0], [1.0, 0.0], 0.5)]
)
def test_the_area_under_the_curve_counts_ordered_pairs(right: list[float], wrong: list[float], area: float) -> None:
    assert area_under_roc(np.array(right), np.array(wrong)) == area

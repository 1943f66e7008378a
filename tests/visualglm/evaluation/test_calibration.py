"""Answers are compared with the probability that the model gives them."""

import math

import numpy as np
import pytest

from tests.visualglm.evaluation.helpers import answered
from visualglm.evaluation.calibration import calibrate, confidence_of


def test_confidence_of_an_answer_and_of_options() -> None:
    assert confidence_of(answered("yes")) is None
    assert confidence_of(answered("yes", logprob=math.log(0.25))) == pytest.approx(0.25)
    logprobs = [math.log(0.1), math.log(0.3)]
    assert confidence_of(answered("B", choice_logprobs=logprobs)) == pytest.approx(0.75)
    assert confidence_of(answered("B", choice_logprobs=[-2000.0, -2001.0])) == pytest.approx(1 / (1 + math.exp(-1)))


def test_the_calibration_error_is_the_weighted_gap() -> None:
    confidences = [0.95, 0.95, 0.95, 0.95, 0.55, 1.0]
    grades = np.array([1, 1, 1, 0, 0, 1.0])
    rows = [answered("yes", logprob=math.log(confidence)) for confidence in confidences]
    calibration = calibrate(rows, grades)
    assert calibration is not None
    # By hand: the last bin has 5 answers of mean confidence 0.96, 4 of them right; the other bin one wrong answer.
    assert calibration.error == pytest.approx((5 * abs(0.8 - 0.96) + 0.55) / 6)
    assert [part.count for part in calibration.bins] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 5]
    assert math.isnan(calibration.bins[0].accuracy)


def test_answers_without_probability_or_grade_are_left_out() -> None:
    rows = [answered("yes", logprob=-0.1), answered("yes"), answered("yes", logprob=-0.1)]
    calibration = calibrate(rows, np.array([1, 1, math.nan]))
    assert calibration is not None
    assert calibration.count == 1
    assert calibrate(rows[1:2], np.array([1.0])) is None

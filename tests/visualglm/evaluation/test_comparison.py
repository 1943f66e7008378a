"""Two runs are compared on the same questions."""

import pytest

from tests.visualglm.evaluation.helpers import answered
from visualglm.evaluation.comparison import compare_answers, format_comparison
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.metrics import EXACT_MATCH


def test_scores_differences_and_mcnemar() -> None:
    first = [answered("yes", "yes", key=str(number)) for number in range(20)]
    second = [answered("yes" if number < 10 else "no", "yes", key=str(number)) for number in range(20)]
    comparison = compare_answers(EXACT_MATCH, first, second)
    assert comparison.differences["exact_match"].interval.value == 50
    assert (comparison.mcnemar.first_only, comparison.mcnemar.second_only) == (10, 0)
    text = "\n".join(format_comparison(comparison, ("ours", "theirs")))
    assert "100.00" in text and "50.00" in text and "only ours correct: 10" in text


def test_different_questions_are_refused() -> None:
    with pytest.raises(EvaluationError, match="questions"):
        compare_answers(EXACT_MATCH, [answered("a", "a", key="1")], [answered("a", "a", key="2")])

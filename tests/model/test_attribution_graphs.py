"""Scorers of the engine: the numbers of the modules, with gradients, whatever the padding; see test_gpu.py."""

from functools import partial
from typing import Any

import pytest
import torch

from model import VisualGLMModel
from model.attribution import Scorer
from model.attribution_graphs import AnswerScorers, get_scorers
from model.engine.teacher_forcing import AnswerNumbers
from model.explain import run_modules
from model.explanation import make_module_scorer
from tests.conftest import relative_error
from tests.model.engine.test_decoder import build_prefixed

CASE = "en_image"


@pytest.fixture(scope="module")
def prefixed_model(golden_spec: Any) -> VisualGLMModel:
    return build_prefixed(golden_spec)


def module_scorer(model: VisualGLMModel, case: dict[str, Any]) -> Scorer:
    """Return the scorer of a golden case's continuation that calls the modules."""
    ids = torch.tensor([case["input_ids"] + case["continuation"]])
    return make_module_scorer(model, partial(run_modules, model, case["image_start"]), ids, len(case["continuation"]))


@pytest.mark.parametrize("step", [1, 32])
@pytest.mark.parametrize("kind", ["golden_model", "prefixed_model"])
def test_scorers_give_the_numbers_of_the_modules(
    kind: str, step: int, golden_spec: Any, golden_pixels: torch.Tensor, request: Any
) -> None:
    model, case = request.getfixturevalue(kind), golden_spec["cases"][CASE]
    scorers, count = AnswerScorers(model), len(case["continuation"])
    numbers = AnswerNumbers.pack(case["input_ids"], case["image_start"], case["continuation"], step)
    answer = numbers.view(torch.tensor(numbers.values))
    scorer = Scorer(scorers.encode, partial(scorers.language_model.score, answer=answer))
    expected = module_scorer(model, case)
    pixels = golden_pixels[case["image_index"]][None]
    several = torch.cat([pixels, -pixels, pixels * 0])
    scores = scorer.score(several)
    assert not scores[:, count:].any()
    assert relative_error(scores[:, :count], expected.score(several)) < 1e-5
    found, wanted = scorer.find_relevance(pixels), expected.find_relevance(pixels)
    assert wanted.relevance.max() == 1
    assert relative_error(found.relevance, wanted.relevance) < 1e-4
    assert relative_error(found.logprobs[:count], wanted.logprobs) < 1e-5
    assert (found.reliance[:count] - wanted.reliance).abs().max() < 1e-4


def test_scorers_follow_replaced_weights(golden_spec: Any) -> None:
    model = build_prefixed(golden_spec)
    before = get_scorers(model)
    assert get_scorers(model) is before
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    assert get_scorers(model) is not before

"""The engine's scorers compute what the modules compute; test_gpu.py tests them with real CUDA graphs."""

from functools import partial
from typing import Any

import pytest
import torch

from model import VisualGLMModel
from model.attribution import Scorer
from model.attribution_graphs import MAX_GRAPHS, AnswerScorers, get_scorers
from model.engine.teacher_forcing import AnswerNumbers
from model.explain import run_modules
from model.explanation import make_module_scorer
from tests.conftest import relative_error
from tests.helpers.direct_runs import DirectRuns
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


@pytest.fixture
def graphed(golden_model: VisualGLMModel) -> AnswerScorers:
    """Scorers that use their buffers as on a GPU, with functions that run directly."""
    scorers = AnswerScorers(golden_model)
    scorers.has_graphs, scorers.graphs = True, DirectRuns()  # type: ignore[assignment]
    return scorers


def test_graphs_serve_answers_and_batches_of_other_sizes(
    graphed: AnswerScorers, golden_model: VisualGLMModel, golden_spec: Any, golden_pixels: torch.Tensor
) -> None:
    case = golden_spec["cases"][CASE]
    pixels = golden_pixels[case["image_index"]][None]
    for length, images in ((5, 4), (2, 1), (5, 8), (3, 7)):
        shorter = {**case, "continuation": case["continuation"][:length]}
        expected = module_scorer(golden_model, shorter)
        several = torch.cat([pixels * (number + 1) / images for number in range(images)])
        with graphed.scorer(case["input_ids"], case["image_start"], shorter["continuation"]) as scorer:
            found, wanted = scorer.find_relevance(pixels), expected.find_relevance(pixels)
            assert relative_error(found.relevance, wanted.relevance) < 1e-4
            assert relative_error(found.logprobs, wanted.logprobs) < 1e-5
            assert relative_error(scorer.score(several), expected.score(several)) < 1e-5
    assert len(graphed.graphs.graphs) == 4  # the gradients, and batches of 3, 4 and 8


def test_few_graphs_are_kept(graphed: AnswerScorers) -> None:
    for number in range(2 * MAX_GRAPHS):
        assert graphed.run(number, lambda: "done") == "done"
        assert len(graphed.graphs.graphs) <= MAX_GRAPHS


def test_without_a_capture_the_functions_run_directly(graphed: AnswerScorers, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("cannot be captured")

    monkeypatch.setattr(graphed.graphs, "run", fail)
    with pytest.warns(UserWarning, match="cannot be captured"):
        assert graphed.run("key", lambda: "done") == "done"
    assert not graphed.has_graphs


def test_scorers_follow_replaced_weights(golden_spec: Any) -> None:
    model = build_prefixed(golden_spec)
    before = get_scorers(model)
    assert get_scorers(model) is before
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    assert get_scorers(model) is not before

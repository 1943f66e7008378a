"""The distribution is the original's; each setting does what its name says."""

from typing import Any

import numpy as np
import pytest
import torch

from model.errors import GenerationError
from model.generation import GenerationConfig
from model.generation.sampling import distribution, forbid, penalize, sample
from tests.conftest import GOLDENS

CONFIGS = [(0.8, 100, 0.4), (0.95, 30, 0.7), (1.0, 1, 0.5), (0.5, 10, 0.9), (1.0, 500, 0.99)]


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(GOLDENS / "sampling.npz") as arrays:
        yield dict(arrays)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CONFIGS)
def test_distribution_equals_the_original(golden: Any, temperature: float, top_k: int, top_p: float) -> None:
    config = GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    actual = distribution(torch.tensor(golden["logits"]), config)
    expected = torch.tensor(golden[f"probs_t{temperature}_k{top_k}_p{top_p}"])
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_top_p_works_without_top_k() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    probabilities = distribution(logits, GenerationConfig(temperature=1.0, top_k=0, top_p=0.6))
    torch.testing.assert_close(probabilities, torch.tensor([[0.625, 0.375, 0.0, 0.0]]))


def test_everything_off_is_the_softmax() -> None:
    logits = torch.randn(2, 50)
    config = GenerationConfig(temperature=1.0, top_k=0, top_p=1.0)
    torch.testing.assert_close(distribution(logits, config), logits.softmax(-1))


def test_sampling_follows_the_distribution_and_the_seed() -> None:
    logits = torch.randn(1, 8)
    config = GenerationConfig(temperature=1.0, top_k=5, top_p=0.9)

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([sample(logits, config, generator) for _ in range(4000)]).flatten()

    first = draw(3)
    assert torch.equal(first, draw(3))
    assert not torch.equal(first, draw(4))
    frequencies = torch.bincount(first, minlength=8) / len(first)
    torch.testing.assert_close(frequencies, distribution(logits, config)[0], atol=0.04, rtol=0)


def test_zero_temperature_is_greedy() -> None:
    logits = torch.randn(4, 20)
    assert torch.equal(sample(logits, GenerationConfig(temperature=0), None), logits.argmax(-1, keepdim=True))


def test_penalty_always_lowers_and_only_what_the_answer_has() -> None:
    logits = torch.tensor([[2.0, -2.0, 0.5, -0.5]])
    lowered = penalize(logits, torch.tensor([[0, 1, 1]]), 1.25)
    torch.testing.assert_close(lowered, torch.tensor([[1.6, -2.5, 0.5, -0.5]]))
    assert torch.equal(penalize(logits, torch.empty(1, 0, dtype=torch.long), 1.25), logits)


def test_forbidden_ids_are_never_drawn() -> None:
    logits = forbid(torch.randn(1, 10), [(0, 3), (5, 10)])
    probabilities = distribution(logits, GenerationConfig(temperature=1.0, top_k=0, top_p=1.0))
    assert probabilities[0, [0, 1, 2, 5, 6, 7, 8, 9]].sum() == 0
    assert probabilities.sum() == pytest.approx(1.0)


def test_forbidding_leaves_the_given_logits_alone() -> None:
    logits = torch.zeros(1, 4)
    forbid(logits, [(0, 2)])
    assert torch.equal(logits, torch.zeros(1, 4))


def test_numbers_that_are_none_are_an_error() -> None:
    with pytest.raises(GenerationError, match="float16"):
        sample(torch.tensor([[0.0, float("nan")]]), GenerationConfig(), None)

"""The sampling distribution equals the original's, and each parameter has its documented effect."""

from typing import Any

import numpy as np
import pytest
import torch

from model.engine import GenerationConfig
from model.engine.sampling import candidates, penalize, sample_inverse_cdf, sampling_tensors
from tests.conftest import GOLDENS

CONFIGS = [(0.8, 100, 0.4), (0.95, 30, 0.7), (1.0, 1, 0.5), (0.5, 10, 0.9), (1.0, 500, 0.99)]


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(GOLDENS / "sampling.npz") as arrays:
        yield dict(arrays)


def distribution(logits: torch.Tensor, config: GenerationConfig) -> torch.Tensor:
    """Return the probabilities [B, V] with which each token would be sampled."""
    probabilities, ids = candidates(logits, sampling_tensors(config, logits.shape[-1]))
    return torch.zeros_like(logits, dtype=torch.float).scatter(-1, ids, probabilities)


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


def test_sampling_follows_the_distribution() -> None:
    probabilities, ids = candidates(
        torch.randn(1, 8), sampling_tensors(GenerationConfig(temperature=1.0, top_k=5, top_p=0.9), 8)
    )
    count = 4000
    sampled = sample_inverse_cdf(probabilities.expand(count, -1), ids.expand(count, -1), torch.rand(count))
    frequencies = torch.bincount(sampled, minlength=8) / count
    expected = torch.zeros(8).scatter(0, ids[0], probabilities[0])
    torch.testing.assert_close(frequencies, expected, atol=0.04, rtol=0)
    assert not frequencies[expected == 0].any()


@pytest.mark.parametrize("uniform", [0.0, 1.0])
def test_the_ends_of_the_unit_interval_sample_possible_tokens(uniform: float) -> None:
    probabilities, ids = torch.tensor([[0.75, 0.25, 0.0]]), torch.tensor([[4, 2, 7]])
    assert sample_inverse_cdf(probabilities, ids, torch.tensor([uniform])).item() in (4, 2)


def test_the_penalty_lowers_only_the_logits_of_seen_tokens() -> None:
    logits = torch.tensor([[2.0, -2.0, 0.5, -0.5]])
    seen = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(penalize(logits, seen, torch.tensor([[1.25]])), torch.tensor([[1.6, -2.5, 0.5, -0.5]]))

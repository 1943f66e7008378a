"""Padded prompts that are copied to the device at once are embedded like separate prompts."""

from typing import Any

import pytest
import torch

from model.engine import GenerationConfig, Request
from model.engine.cuda_graph import (
    MAX_PREFILL_TOKENS,
    PREFILL_BATCH_BUCKETS,
    PREFILL_LENGTH_BUCKETS,
    fits_prefill_graph,
    pad_to_bucket,
)
from model.engine.layers import Layers
from model.engine.network import has_foreign_hooks
from model.engine.prefill import PrefillInputs
from model.visualglm import VisualGLMModel
from tests.conftest import build_model
from tests.model.engine.test_batch import prompts  # noqa: F401  (a fixture)

CONFIG = GenerationConfig()


@pytest.fixture(scope="module")
def requests(prompts: list[dict[str, Any]]) -> list[Request]:  # noqa: F811
    """Three requests of different lengths, one of them without an image."""
    return [Request(config=CONFIG, **prompt) for prompt in (prompts[0], prompts[2], prompts[3])]


def test_padded_prompts_are_embedded_like_separate_prompts(
    golden_model: VisualGLMModel, requests: list[Request]
) -> None:
    layers = Layers(golden_model)
    expected = layers.embed(requests)
    assert {request.images is None for request in requests} == {True, False}
    inputs = PrefillInputs(golden_model, layers.weights.hidden_size)
    inputs.images.fill_(7.0)  # left by earlier prompts
    contexts = [len(request.token_ids) - 1 for request in requests]
    count, length = 4, pad_to_bucket(max(contexts), PREFILL_LENGTH_BUCKETS)
    inputs.copy_in(5, requests, count, length, prefix_length=9)
    padded = inputs.view(count, length)
    assert padded.slots.tolist() == [5, 6, 7, 5]
    assert padded.contexts.tolist() == [*contexts, contexts[0]]
    assert padded.lengths.tolist() == [*(9 + context for context in contexts), -1]
    with torch.inference_mode():
        x = inputs.embed(padded)
    assert len(x) == count * (length + 1)
    for index, (prompt, context) in enumerate(zip(expected, contexts, strict=True)):
        assert torch.equal(x[index * length : index * length + context], prompt[:-1])
        assert torch.equal(x[count * length + index], prompt[-1])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11])
def test_the_buffers_hold_every_prefill_that_fits_a_graph(count: int, golden_model: VisualGLMModel) -> None:
    longest = max(length for length in PREFILL_LENGTH_BUCKETS if fits_prefill_graph([length] * count))
    inputs = PrefillInputs(golden_model, Layers(golden_model).weights.hidden_size)
    size = pad_to_bucket(count, PREFILL_BATCH_BUCKETS)
    inputs.copy_in(0, [Request([1] * (longest + 1), CONFIG)] * count, size, longest, prefix_length=0)
    assert inputs.view(size, longest).ids.shape == (size, longest + 1)
    assert size * (longest + 1) <= MAX_PREFILL_TOKENS


def test_a_mixin_that_embeds_images_differently_is_foreign(golden_spec: Any) -> None:
    model = build_model(golden_spec)
    assert not has_foreign_hooks(model)

    class Other(type(model.get_mixin("eva"))):  # type: ignore[misc]
        """Embeds images differently."""

        def word_embedding_forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().word_embedding_forward(*args, **kwargs)  # type: ignore[no-any-return]

    model.get_mixin("eva").__class__ = Other
    assert has_foreign_hooks(model)

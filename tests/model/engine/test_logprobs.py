"""Log-probabilities in any batch equal those of a full forward pass; without requests for them nothing changes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model.engine import GenerationConfig, Request, TokenOutput
from model.engine.logprobs import TOP_BUCKETS, top_bucket
from model.engine.sampling import Sampler
from model.errors import SettingError
from model.kernels.torch_ops import positions_2d, prefix_mask
from model.visualglm import VisualGLMModel
from tests.model.engine.test_batch import GREEDY, WILD, draw_requests, generate_batched, prompts  # noqa: F401

TOLERANCE = 1e-4
END = 5


@torch.inference_mode()
def full_logprobs(model: VisualGLMModel, request: Request, answer: list[int]) -> torch.Tensor:
    """Return the log-probabilities [len(answer), V] of each answer token, from one forward pass over all tokens."""
    ids = torch.tensor([[*request.token_ids, *answer]])
    index, context = torch.arange(ids.shape[1]), len(request.token_ids) - 1
    image = {}
    if request.images is not None:
        image = {"image_embeddings": request.images, "pre_image": request.image_start}
    logits, *_ = model(
        input_ids=ids,
        position_ids=positions_2d(index, context)[None],
        attention_mask=prefix_mask(index, context)[None, None].to(model.dtype),
        **image,
    )
    return logits[0, context:-1].float().log_softmax(-1)


def tokens_of(outputs: list[TokenOutput]) -> list[int]:
    return [output.token_id for output in outputs if output.token_id is not None]


def assert_logprobs(model: VisualGLMModel, request: Request, outputs: list[TokenOutput], count: int) -> None:
    """Assert that the outputs have the log-probabilities of a full pass, with `count` most likely tokens."""
    answer = tokens_of(outputs)
    for row, token, output in zip(full_logprobs(model, request, answer), answer, outputs, strict=False):
        assert output.logprobs is not None
        assert output.logprobs.logprob == pytest.approx(float(row[token]), abs=TOLERANCE)
        values, _ = row.topk(count) if count else (row[:0], None)
        assert [value for _, value in output.logprobs.top] == pytest.approx(values.tolist(), abs=TOLERANCE)
        assert [float(row[id]) for id, _ in output.logprobs.top] == pytest.approx(values.tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_logprobs_are_those_of_a_full_pass(
    rows: int,
    golden_model: VisualGLMModel,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    requests = draw_requests(prompts, 12, seed=rows)
    plain = generate_batched(golden_model, requests, rows)
    counts = [None, 0, 3, 20]
    asking = [
        replace(one, config=replace(one.config, top_logprobs=counts[number % 4])) for number, one in enumerate(requests)
    ]
    for request, outputs, expected in zip(asking, generate_batched(golden_model, asking, rows), plain, strict=True):
        assert [replace(output, logprobs=None) for output in outputs] == expected  # the tokens stay the same
        if (count := request.config.top_logprobs) is None:
            assert outputs == expected
        else:
            assert_logprobs(golden_model, request, outputs, count)


@pytest.mark.parametrize("rows", [1, 4])
def test_forced_tokens_are_scored_beside_sampled_ones(
    rows: int,
    golden_model: VisualGLMModel,
    prompts: list[dict[str, Any]],  # noqa: F811
) -> None:
    sampled = draw_requests(prompts, 6, seed=2)
    expected = generate_batched(golden_model, sampled, rows)
    config = GREEDY.replace(top_logprobs=0)
    forced = [
        Request(config=config, forced_ids=[9 + 31 * number + step for step in range(1 + number)], **prompt)
        for number, prompt in enumerate(prompts)
    ]
    mixed = [one for pair in zip(sampled, forced, strict=False) for one in pair] + sampled[len(forced) :]
    outputs = dict(zip(mixed, generate_batched(golden_model, mixed, rows), strict=True))
    assert [outputs[request] for request in sampled] == expected
    for request in forced:
        assert tokens_of(outputs[request]) == request.forced_ids
        assert outputs[request][-1].finish_reason == "length"
        assert_logprobs(golden_model, request, outputs[request], 0)


def test_batches_that_ask_for_nothing_have_the_plan_of_before() -> None:
    sampler, request = Sampler(1, 40, 4, END, torch.device("cpu")), Request([1, 2], WILD)
    plan = sampler.plan([(request, 0)])
    assert plan.num_top_logprobs is None and not plan.any_forced
    asking = Request([1, 2], WILD.replace(top_logprobs=3))
    assert sampler.plan([(request, 0), (asking, 0)]).num_top_logprobs in TOP_BUCKETS


@pytest.mark.parametrize("count", range(21))
def test_buckets_hold_what_is_asked_for(count: int) -> None:
    bucket = top_bucket([GREEDY, GREEDY.replace(top_logprobs=count)])
    assert bucket is not None and bucket >= count


@pytest.mark.parametrize("count", [-1, 21, 1.5, True, "3"])
def test_impossible_counts_are_refused(count: Any) -> None:
    with pytest.raises(SettingError, match="top_logprobs"):
        GenerationConfig(top_logprobs=count)

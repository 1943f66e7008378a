"""Compare generation in preallocated decode buffers with generation layer by layer."""

from typing import Any

import torch

from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.helpers.hf_models import golden_model

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}


def prompt_of(length: int, seed: int = 0) -> torch.Tensor:
    """Return random ids [1, length] that end with [gMASK] <sop>."""
    config = golden_model().config
    ids = torch.randint(20, 60, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, -2:] = torch.tensor([config.gmask_token_id, config.bos_token_id])
    return ids


def generate_with_and_without_graphs(model: HfModel, ids: torch.Tensor, **settings: Any) -> tuple[Any, Any]:
    """Generate in decode buffers, then layer by layer."""
    found = []
    for model.graph_cache.enabled in (True, False):
        torch.manual_seed(0)
        found.append(model.generate(ids, **{**GREEDY, **settings}))
    model.graph_cache.enabled = True
    return found[0], found[1]


def assert_same_logits(model: HfModel, ids: torch.Tensor, **settings: Any) -> None:
    """Compare the logits and tokens of all steps."""
    ours, expected = generate_with_and_without_graphs(
        model, ids, return_dict_in_generate=True, output_logits=True, **settings
    )
    assert torch.equal(ours.sequences, expected.sequences)
    for one, other in zip(ours.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

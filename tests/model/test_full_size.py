"""The published sizes, and random weights whose activations fit into half precision."""

import math
from argparse import Namespace
from typing import Any

import pytest
import torch

from benchmarks.full_size import EMBEDDED_MODEL, draw_weights, full_size_config, random_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.meta_init import MetaDeviceMode
from model.visualglm import VisualGLMModel
from tests.conftest import build_model

PUBLISHED_PARAMETERS = 7_802_193_408


def test_the_sizes_are_the_published_ones() -> None:
    with MetaDeviceMode():
        network = VisualGLMModel(Namespace(**{"skip_init": True, **full_size_config()}), params_dtype=torch.float16)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED_PARAMETERS


def test_fewer_layers_of_each_component() -> None:
    config = full_size_config(3)
    parts = (config, config["eva_args"], config["qformer_args"])
    assert [part["num_layers"] for part in parts] == [3, 3, 3]
    assert config["qformer_args"]["is_decoder"] == [True, False, True]
    assert full_size_config()["num_layers"] == 28  # a copy was changed, not the original


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_of_random_weights_are_finite(
    dtype: torch.dtype, golden_spec: dict[str, Any], golden_pixels: torch.Tensor
) -> None:
    network = build_model(golden_spec).to(dtype)
    draw_weights(network)
    case = golden_spec["cases"]["zh_image"]
    with torch.no_grad():
        logits = network(torch.tensor([case["input_ids"]]), image=golden_pixels[:1], pre_image=case["image_start"])[0]
    spread = logits.float().std().item()
    assert math.isfinite(spread)
    assert 0.01 < spread < 100


def test_the_same_seed_draws_the_same_weights(golden_spec: dict[str, Any]) -> None:
    one, other, third = (build_model(golden_spec) for _ in range(3))
    for network, seed in ((one, 1), (other, 1), (third, 2)):
        draw_weights(network, seed)
    assert torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, third.lm_head.weight)


def test_random_weights_need_not_fit_into_the_borrowed_models_files() -> None:
    config = {**open_checkpoint(EMBEDDED_MODEL).config, "inner_hidden_size": 16_384}
    network = random_sat(config, torch.device("cpu"), torch.float32)
    assert sum(parameter.nbytes for parameter in network.parameters()) > 100_000_000

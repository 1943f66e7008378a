"""Generation stops at its limits, and sampling parameters are validated."""

import argparse
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from model.engine import CHAT, DEMO, HF_CHAT, GenerationConfig, Request, TokenOutput, generate
from model.errors import GenerationError, SettingError
from model.visualglm import VisualGLMModel

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def prompt(golden_spec: Any) -> list[int]:
    return golden_spec["cases"]["zh_text"]["input_ids"]


def run(model: VisualGLMModel, prompt: list[int], eos_token_id: int = 130005, **settings: Any) -> list[TokenOutput]:
    return list(generate(model, Request(prompt, GREEDY.replace(**settings)), eos_token_id=eos_token_id))


def test_stops_at_the_end_token_which_is_not_part_of_the_answer(
    golden_model: VisualGLMModel, prompt: list[int]
) -> None:
    unrestricted = [output.token_id for output in run(golden_model, prompt, max_new_tokens=6)]
    eos_token_id = next(token for token in unrestricted[1:] if token != unrestricted[0])
    outputs = run(golden_model, prompt, eos_token_id=eos_token_id, max_new_tokens=6)
    assert [output.token_id for output in outputs[:-1]] == unrestricted[: unrestricted.index(eos_token_id)]
    assert outputs[-1] == TokenOutput(None, "stop")


def test_max_new_tokens_counts_the_answer(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    outputs = run(golden_model, prompt, max_new_tokens=3)
    assert [output.finish_reason for output in outputs] == [None, None, "length"]
    assert all(output.token_id is not None for output in outputs)


def test_max_length_counts_the_prompt(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    assert len(run(golden_model, prompt, max_length=len(prompt) + 4)) == 4
    assert run(golden_model, prompt, max_length=len(prompt)) == [TokenOutput(None, "length")]


def test_the_maximum_sequence_length_is_a_limit(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    golden_model.max_sequence_length = len(prompt) + 2
    try:
        assert len(run(golden_model, prompt, max_length=5000)) == 2
    finally:
        golden_model.max_sequence_length = 2048


def test_min_length_forbids_the_end_token(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    eos_token_id = run(golden_model, prompt, max_new_tokens=1)[0].token_id
    assert run(golden_model, prompt, eos_token_id=eos_token_id, max_new_tokens=5) == [TokenOutput(None, "stop")]
    outputs = run(golden_model, prompt, eos_token_id=eos_token_id, max_new_tokens=5, min_length=len(prompt) + 3)
    assert sum(output.token_id is not None for output in outputs) >= 3
    assert all(output.token_id != eos_token_id for output in outputs)


def test_forbidden_ids_are_not_sampled(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    unrestricted = run(golden_model, prompt, max_new_tokens=1)[0].token_id
    outputs = list(
        generate(
            golden_model,
            Request(prompt, GREEDY.replace(max_new_tokens=4), [(unrestricted, unrestricted + 1)]),
            eos_token_id=1,
        )
    )
    assert unrestricted not in [output.token_id for output in outputs]


def test_a_seed_makes_an_answer_reproducible(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    config = GenerationConfig(max_new_tokens=8, temperature=2.0, top_k=0, top_p=1.0, seed=5)
    first = list(generate(golden_model, Request(prompt, config), eos_token_id=1))
    torch.rand(3)
    assert list(generate(golden_model, Request(prompt, config), eos_token_id=1)) == first
    assert list(generate(golden_model, Request(prompt, config.replace(seed=6)), eos_token_id=1)) != first


def test_repetition_penalty_applies_only_to_the_answer(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    """The first answer token is not penalized for being part of the prompt."""
    plain = run(golden_model, prompt, max_new_tokens=1)[0].token_id
    assert run(golden_model, prompt, max_new_tokens=1, repetition_penalty=50.0)[0].token_id == plain
    tokens = [output.token_id for output in run(golden_model, prompt, max_new_tokens=12, repetition_penalty=50.0)]
    assert len(set(tokens)) == 12


def test_closing_stops_the_generation(golden_model: VisualGLMModel, prompt: list[int]) -> None:
    outputs = generate(golden_model, Request(prompt, GREEDY), eos_token_id=1)
    next(outputs)
    outputs.close()
    with pytest.raises(StopIteration):
        next(outputs)


def test_out_of_memory_is_a_generation_error(
    golden_model: VisualGLMModel, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*args: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate too much")

    monkeypatch.setattr("model.engine.decoder.EagerDecoder.grow", allocate)
    with pytest.raises(GenerationError, match="max_length"):
        run(golden_model, prompt)


def test_presets_are_the_originals() -> None:
    assert (CHAT.max_length, CHAT.top_p, CHAT.top_k, CHAT.temperature, CHAT.min_length) == (
        1024,
        0.7,
        30,
        0.95,
        0,
    )
    assert (HF_CHAT.max_length, HF_CHAT.top_p, HF_CHAT.top_k, HF_CHAT.temperature) == (1024, 0.4, 100, 0.8)
    assert HF_CHAT.min_length == 100
    assert (DEMO.max_length, DEMO.top_p, DEMO.top_k, DEMO.temperature, DEMO.min_length) == (
        2048,
        0.4,
        100,
        0.8,
        0,
    )
    assert {config.repetition_penalty for config in (CHAT, HF_CHAT, DEMO)} == {1.2}


@pytest.mark.parametrize(
    "setting",
    [
        {"max_length": 0},
        {"max_length": 10.5},
        {"max_new_tokens": 0},
        {"min_length": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": True},
        {"top_p": 1.5},
        {"top_p": -0.1},
        {"repetition_penalty": 0.9},
        {"seed": -1},
        {"seed": 2**63},
        {"temperature": 10**400},
        {"temperature": Fraction(10**400)},
        {"temperature": np.float32("nan")},
        {"temperature": np.array([0.5, 0.6])},
        {"temperature": torch.tensor([0.5])},
        {"temperature": np.bool_(True)},
        {"temperature": 1j},
        {"top_k": np.float32(3)},
        {"top_k": torch.tensor(True)},
        {"max_length": np.int64(0)},
    ],
    ids=str,
)
def test_invalid_values_are_rejected_by_name(setting: dict[str, Any]) -> None:
    name = next(iter(setting))
    with pytest.raises(SettingError, match=f"{name} .*should be"):
        GenerationConfig(**setting)


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize(
    "number",
    [np.float16, np.float32, np.float64, np.int64, np.array, torch.tensor, Fraction, np.uint8],
    ids=lambda number: number.__name__,
)
def test_real_numbers_of_any_library_are_accepted(name: str, number: Any) -> None:
    config = GenerationConfig(**{name: number(1)})
    assert type(getattr(config, name)) in (int, float)
    assert config == GenerationConfig(**{name: 1})
    assert DEMO.replace(**{name: number(1)}) == DEMO.replace(**{name: 1})


@pytest.mark.parametrize("name", ["max_length", "max_new_tokens", "min_length", "top_k", "seed"])
@pytest.mark.parametrize("number", [np.int64, np.uint8, np.array, torch.tensor], ids=lambda number: number.__name__)
def test_integers_of_any_library_are_accepted(name: str, number: Any) -> None:
    config = GenerationConfig(**{name: number(7)})
    assert type(getattr(config, name)) is int
    assert config == GenerationConfig(**{name: 7})


def test_flags_have_the_defaults_of_the_preset() -> None:
    parser = argparse.ArgumentParser()
    DEMO.add_arguments(parser)
    assert DEMO.from_arguments(parser.parse_args([])) == DEMO
    changed = DEMO.from_arguments(parser.parse_args(["--top_k", "0", "--seed", "7", "--temperature", "0"]))
    assert changed == DEMO.replace(top_k=0, seed=7, temperature=0.0)

"""Each row of a batch is sampled by its own settings, seed and past."""

import torch

from model.generation import GenerationConfig
from model.generation.sampler import BROKEN, Sampler

VOCABULARY, END = 40, 39
WILD = GenerationConfig(temperature=3.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
CONFIGS = [
    GenerationConfig(temperature=0, repetition_penalty=1.0),
    WILD.replace(seed=1),
    WILD.replace(seed=2, top_k=7),
    WILD.replace(seed=1, repetition_penalty=1.7, top_p=0.9),
    WILD.replace(seed=4, temperature=0.5, top_k=3),
]


def draw_alone(config: GenerationConfig, logits: torch.Tensor, forbidden: list[tuple[int, int]]) -> list[int]:
    """Return the tokens of one row for logits [steps, V]."""
    sampler = Sampler(1, VOCABULARY, len(logits), END, torch.device("cpu"))
    sampler.begin(0, config, forbidden, prompt_length=4, budget=len(logits))
    return [int(sampler.sample(step[None])) for step in logits]


def test_rows_draw_what_each_draws_alone() -> None:
    logits = torch.randn(12, len(CONFIGS), VOCABULARY)
    sampler = Sampler(len(CONFIGS), VOCABULARY, 12, END, torch.device("cpu"))
    for row, config in enumerate(CONFIGS):
        sampler.begin(row, config, [(row, row + 2)], prompt_length=4, budget=12)
    together = torch.stack([sampler.sample(step) for step in logits])
    for row, config in enumerate(CONFIGS):
        assert together[:, row].tolist() == draw_alone(config, logits[:, row], [(row, row + 2)])
        assert not set(together[:, row].tolist()) & {row, row + 1}


def test_a_moved_row_goes_on_where_it_was() -> None:
    logits = torch.randn(10, VOCABULARY)
    sampler = Sampler(3, VOCABULARY, 10, END, torch.device("cpu"))
    sampler.begin(2, CONFIGS[3], [(0, 5)], prompt_length=4, budget=10)
    first = [int(sampler.sample(step[None], first=2)) for step in logits[:5]]
    sampler.move(2, 0)
    rest = [int(sampler.sample(step[None])) for step in logits[5:]]
    assert first + rest == draw_alone(CONFIGS[3], logits, [(0, 5)])


def test_seeds_differ_and_repeat() -> None:
    logits = torch.randn(30, VOCABULARY)
    one, again, other = (draw_alone(WILD.replace(seed=seed), logits, []) for seed in (1, 1, 2))
    assert one == again != other


def test_an_answer_does_not_end_too_early() -> None:
    logits = torch.zeros(6, VOCABULARY)
    logits[:, END] = 9
    config = CONFIGS[0].replace(min_length=7)  # three tokens after a prompt of four
    assert [token == END for token in draw_alone(config, logits, [])] == [False] * 3 + [True] * 3


def test_a_row_without_numbers_is_broken_alone() -> None:
    logits = torch.randn(3, VOCABULARY)
    logits[1, 5] = float("nan")
    sampler = Sampler(3, VOCABULARY, 4, END, torch.device("cpu"))
    for row, config in enumerate(CONFIGS[:3]):
        sampler.begin(row, config, [], prompt_length=4, budget=4)
    tokens = sampler.sample(logits).tolist()
    assert [token == BROKEN for token in tokens] == [False, True, False]


def test_the_given_logits_are_left_alone() -> None:
    logits = torch.randn(1, VOCABULARY)
    before = logits.clone()
    draw_alone(CONFIGS[3].replace(min_length=9), logits, [(0, 3)])
    assert torch.equal(logits, before)

"""Each sequence of a batch is sampled with its own parameters, seed and history."""

from dataclasses import replace

import pytest
import torch

from model.engine import GenerationConfig, Request
from model.engine.sampling import NAN_TOKEN, Sampler
from model.kernels.dispatch import has_triton

VOCAB_SIZE, END = 40, 39
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = pytest.mark.skipif(not has_triton(DEVICE), reason="needs Triton and a CUDA device, or TRITON_INTERPRET=1")
WILD = GenerationConfig(temperature=3.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
CONFIGS = [
    GenerationConfig(temperature=0, repetition_penalty=1.0),
    WILD.replace(seed=1),
    WILD.replace(seed=2, top_k=7),
    WILD.replace(seed=1, repetition_penalty=1.7, top_p=0.9),
    WILD.replace(seed=4, temperature=0.5, top_k=3),
]


def make_sampler(slots: int, max_new_tokens: int) -> Sampler:
    return Sampler(slots, VOCAB_SIZE, max_new_tokens, END, torch.device("cpu"))


def make_request(config: GenerationConfig, forbidden: list[tuple[int, int]]) -> Request:
    """Return a request with a prompt of four tokens."""
    return Request([1, 2, 3, 4], config, forbidden)


def sample_separately(config: GenerationConfig, logits: torch.Tensor, forbidden: list[tuple[int, int]]) -> list[int]:
    """Return the sampled tokens of one sequence for logits [steps, V]."""
    sampler, request = make_sampler(1, len(logits)), make_request(config, forbidden)
    sampler.init_slots(0, [request], [len(logits)])
    return [int(sampler.sample(step[None], sampler.plan([(request, n)]))) for n, step in enumerate(logits)]


@pytest.mark.parametrize(("top_k", "uses_kernels"), [(0, False), (7, True), (1024, True), (1025, False)])
def test_kernels_are_used_up_to_the_largest_candidate_bucket(
    top_k: int, uses_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def sample_by_kernels(self: Sampler, logits: torch.Tensor, *_: object) -> torch.Tensor:
        calls.append(logits)
        return logits.argmax(-1)

    monkeypatch.setattr(Sampler, "_sample_by_kernels", sample_by_kernels)
    sampler, request = Sampler(1, 3000, 4, END, torch.device("cpu")), make_request(WILD.replace(top_k=top_k), [])
    sampler.has_kernels = True
    sampler.init_slots(0, [request], [4])
    token = int(sampler.sample(torch.randn(1, 3000), sampler.plan([(request, 0)])))
    assert 0 <= token < 3000
    assert bool(calls) == uses_kernels


def test_batched_samples_equal_separate_samples() -> None:
    logits = torch.randn(12, len(CONFIGS), VOCAB_SIZE)
    sampler = make_sampler(len(CONFIGS), 12)
    requests = [make_request(config, [(row, row + 2)]) for row, config in enumerate(CONFIGS)]
    sampler.init_slots(0, requests[:2], [12, 12])
    sampler.init_slots(2, requests[2:], [12] * (len(requests) - 2))
    plans = [sampler.plan((request, num_sampled) for request in requests) for num_sampled in range(len(logits))]
    batched = torch.stack([sampler.sample(step, plan) for step, plan in zip(logits, plans, strict=True)])
    for row, config in enumerate(CONFIGS):
        assert batched[:, row].tolist() == sample_separately(config, logits[:, row], [(row, row + 2)])
        assert not set(batched[:, row].tolist()) & {row, row + 1}


def test_a_moved_row_goes_on_where_it_was_also_in_a_larger_sampler() -> None:
    logits = torch.randn(10, VOCAB_SIZE)
    sampler, request = make_sampler(3, 10), make_request(CONFIGS[3], [(0, 5)])
    sampler.init_slots(2, [request], [10])
    plan = sampler.plan([(request, 0)])
    first = [int(sampler.sample(step[None], plan, first=2)) for step in logits[:5]]
    sampler = sampler.grown(4, 12)
    sampler.move(2, 0)
    rest = [int(sampler.sample(step[None], plan)) for step in logits[5:]]
    assert first + rest == sample_separately(CONFIGS[3], logits, [(0, 5)])


def test_seeds_differ_and_repeat() -> None:
    logits = torch.randn(30, VOCAB_SIZE)
    one, again, other = (sample_separately(WILD.replace(seed=seed), logits, []) for seed in (1, 1, 2))
    assert one == again != other


def test_an_answer_does_not_end_too_early() -> None:
    logits = torch.zeros(6, VOCAB_SIZE)
    logits[:, END] = 9
    config = CONFIGS[0].replace(min_length=7)  # three tokens after a prompt of four
    assert [token == END for token in sample_separately(config, logits, [])] == [False] * 3 + [True] * 3


def test_nan_logits_affect_only_their_own_row() -> None:
    logits = torch.randn(3, VOCAB_SIZE)
    logits[1, 5] = float("nan")
    sampler, requests = make_sampler(3, 4), [make_request(config, []) for config in CONFIGS[:3]]
    sampler.init_slots(0, requests, [4, 2, 3])
    tokens = sampler.sample(logits, sampler.plan((request, 0) for request in requests)).tolist()
    assert [token == NAN_TOKEN for token in tokens] == [False, True, False]


def test_the_given_logits_are_not_modified() -> None:
    logits = torch.randn(1, VOCAB_SIZE)
    before = logits.clone()
    sample_separately(CONFIGS[3].replace(min_length=9), logits, [(0, 3)])
    assert torch.equal(logits, before)


@KERNELS
@pytest.mark.parametrize("width", [9, 40])
def test_kernels_sample_the_same_tokens_as_torch(width: int) -> None:
    configs = [
        *CONFIGS[1:],
        WILD.replace(seed=5, top_p=0.3),
        CONFIGS[0].replace(repetition_penalty=1.5),
        WILD.replace(seed=6, top_k=4, top_p=0.6, min_length=9),
    ]
    configs = [config.replace(top_k=min(config.top_k or width, width)) for config in configs]
    logits = torch.randn(14, len(configs) + 1, VOCAB_SIZE, device=DEVICE)
    logits[:, -1, 30] = float("nan")
    samplers = [Sampler(len(configs) + 2, VOCAB_SIZE, 12, END, DEVICE) for _ in range(2)]
    requests = [make_request(config, [(row, row + 2)]) for row, config in enumerate([*configs, configs[0]])]
    for sampler in samplers:
        sampler.has_kernels = sampler is samplers[0]
        seeded = [replace(one, config=one.config.replace(seed=row)) for row, one in enumerate(requests, start=1)]
        sampler.init_slots(1, seeded, [12] * len(seeded))
    for num_sampled, step in enumerate(logits):  # two more than there are random numbers for
        plan = samplers[0].plan((request, num_sampled) for request in requests)
        ours, theirs = (sampler.sample(step, plan, first=1) for sampler in samplers)
        assert ours.tolist() == theirs.tolist()
        assert ours[-1] == NAN_TOKEN
        assert torch.equal(samplers[0].num_sampled, samplers[1].num_sampled)
    assert torch.equal(samplers[0].seen[1:-1], samplers[1].seen[1:-1])


LARGE = 5000  # tokens, so that groups of several logits have a common maximum


def sample_once(
    logits: torch.Tensor, config: GenerationConfig, forbidden: list[tuple[int, int]], has_kernels: bool
) -> list[int]:
    """Return a token for each row of logits, each with its own seed."""
    sampler = Sampler(len(logits), LARGE, 4, END, DEVICE)
    sampler.has_kernels = has_kernels
    requests = [make_request(config.replace(seed=row), forbidden) for row in range(len(logits))]
    sampler.init_slots(0, requests, [4] * len(requests))
    return sampler.sample(logits.to(DEVICE), sampler.plan((request, 0) for request in requests)).tolist()


@KERNELS
@pytest.mark.parametrize("top_k", [3, 128, 1000])
def test_kernels_find_the_candidates_of_a_large_vocabulary(top_k: int) -> None:
    torch.manual_seed(top_k)
    logits = torch.randn(6, LARGE)
    logits[1] = logits[1].sort().values  # all candidates in a few groups
    logits[2] -= 100
    logits[3] *= 1e-6
    config = WILD.replace(top_k=top_k)
    assert sample_once(logits, config, [], True) == sample_once(logits, config, [], False)
    few = [(0, 40), (45, LARGE)]  # fewer tokens are left than candidates
    assert sample_once(logits, config, few, True) == sample_once(logits, config, few, False)


@KERNELS
@pytest.mark.parametrize("config", [CONFIGS[0], WILD.replace(top_k=100)])
def test_kernels_choose_among_equal_logits(config: GenerationConfig) -> None:
    logits = torch.randn(5, LARGE, generator=torch.Generator().manual_seed(0))
    logits[0] = 1.0
    logits[1] = logits[1].round()
    logits[2, 1000:4000] = 9.0
    logits[3, [7, 4321]] = 9.0
    logits[4, 2500] = float("nan")
    tokens = sample_once(logits, config, [(0, 5)], True)
    allowed = logits[:, 5:]
    if not config.temperature:
        assert tokens[:4] == (allowed[:4].argmax(-1) + 5).tolist()  # the first of equal ones
    smallest = allowed[:4].topk(100).values[:, -1].tolist()
    assert all(logits[row, token] >= smallest[row] and token >= 5 for row, token in enumerate(tokens[:4]))
    assert tokens[4] == NAN_TOKEN

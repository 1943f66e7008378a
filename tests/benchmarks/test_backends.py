"""All backends answer the same prompts, and their measurements are correct."""

from argparse import Namespace

import pytest
import torch

from benchmarks.full_size import EMBEDDED_MODEL, Source
from benchmarks.parts.backends import ChatBackend, ConcurrentAnswers, EngineBackend, Measurements, SatBackend, to_times
from benchmarks.parts.prompts import SHORT, length_question, random_pixels
from model import DEMO, Conversation


@pytest.fixture(scope="module")
def source() -> Source:
    """The source of visualglm-tiny."""
    return Source(Namespace(device="cpu", dtype=None, from_pretrained=EMBEDDED_MODEL, layers=None))


@pytest.fixture(scope="module")
def engine(source: Source) -> EngineBackend:
    """Our engine with visualglm-tiny."""
    return EngineBackend(source.sat())


@pytest.mark.parametrize("length", [SHORT, 300])
def test_prompts_have_the_requested_length(engine: EngineBackend, length: int) -> None:
    [pixels] = random_pixels(1, engine.model.network.image_size, seed=0)
    prompts = [engine.model.encode_prompt(Conversation(pixels), length_question(length, n), DEMO) for n in (0, 0, 1)]
    assert {len(prompt.token_ids) for prompt in prompts} == {length}
    assert prompts[0].token_ids == prompts[1].token_ids != prompts[2].token_ids


def test_every_backend_generates_the_requested_tokens(engine: EngineBackend, source: Source) -> None:
    """A backend fails if its prompt or its answer has another length."""
    [pixels] = random_pixels(1, engine.model.network.image_size, seed=0)
    for backend in (engine, ChatBackend(engine.model), SatBackend(source.sat())):
        times = backend.answer(SHORT, 4, pixels, 0)
        assert times.first_s > 0
        assert times.token_s > 0


def test_requests_at_once(engine: EngineBackend) -> None:
    new, known = Measurements(engine, 1).concurrent(3, 4)
    assert new.total_rate > 0
    assert known.steady_rate > 0
    assert [len(times) for times in (*new.times, *known.times)] == [4] * 6


def test_a_measurement_is_made_once(engine: EngineBackend) -> None:
    measured = Measurements(engine, 1)
    assert measured.token_ms(SHORT, 3) == measured.token_ms(SHORT, 3)


def test_the_steady_rate_excludes_start_and_end() -> None:
    steady = [float(moment) for moment in range(1, 11)]
    late = [moment + 4 for moment in steady]
    written = ConcurrentAnswers(0, [steady, late])
    assert written.steady_rate == 2  # two tokens a second from 5 to 10
    assert written.total_rate == 20 / 14
    with pytest.raises(RuntimeError, match="never"):
        _ = ConcurrentAnswers(0, [[1.0, 2.0], [3.0, 4.0]]).steady_rate


def test_times_of_an_answer() -> None:
    times = to_times(1.0, [3.0, 4.0, 6.0], 3)
    assert (times.first_s, times.token_s) == (2.0, 1.5)
    with pytest.raises(AssertionError, match="2 tokens"):
        to_times(0, [1.0, 2.0], 3)


def test_random_images_differ() -> None:
    one, other = random_pixels(2, 28, seed=0)
    assert not torch.equal(one, other)
    assert torch.equal(one, random_pixels(1, 28, seed=0)[0])

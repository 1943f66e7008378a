"""The sampler draws all examples, in the same order for any number of processes and any first step."""

from collections import Counter
from itertools import islice

import pytest

from finetune.sampler import ResumableBatchSampler


def taken(order: ResumableBatchSampler, steps: int, start: int = 0) -> list[list[int]]:
    """Return the batches of `steps` steps."""
    return list(islice(order.batches_from(start), steps * order.batches_per_step))


def test_each_epoch_has_every_example_once_in_its_own_order() -> None:
    order = ResumableBatchSampler(21, 4, seed=3)
    seen = [index for batch in taken(order, order.steps(2)) for index in batch]
    first, second = seen[:21], seen[21:42]
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second


@pytest.mark.parametrize("start", [0, 1, 7, 40])
@pytest.mark.parametrize("lengths", [None, [17 * number % 30 for number in range(23)]])
def test_it_resumes_at_any_step(start: int, lengths: list[int] | None) -> None:
    order = ResumableBatchSampler(23, 3, batches_per_step=2, seed=1, lengths=lengths)
    assert taken(order, 3, start) == taken(order, start + 3)[start * 2 :]


def test_processes_share_the_examples_of_a_step() -> None:
    alone = ResumableBatchSampler(30, 6, seed=5)
    shares = [ResumableBatchSampler(30, 3, world_size=2, rank=rank, seed=5) for rank in range(2)]
    for whole, *parts in zip(taken(alone, 9), *(taken(share, 9) for share in shares), strict=True):
        assert whole == parts[0] + parts[1]


def test_examples_of_similar_length_are_batched() -> None:
    lengths = [number % 10 for number in range(200)]
    order = ResumableBatchSampler(200, 10, lengths=lengths)
    batches = taken(order, 20)
    assert Counter(index for batch in batches for index in batch) == Counter(range(200))
    assert all(
        max(lengths[index] for index in batch) - min(lengths[index] for index in batch) <= 1 for batch in batches
    )
    assert len({lengths[batch[0]] for batch in batches[:6]}) > 2

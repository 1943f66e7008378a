"""The order of the examples: all of them, the same for any number of processes, and from any step on."""

from collections import Counter
from itertools import islice

import pytest

from finetune.sampler import Order


def taken(order: Order, steps: int, start: int = 0) -> list[list[int]]:
    """Return the batches of some steps."""
    return list(islice(order.batches_from(start), steps * order.batches))


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own() -> None:
    order = Order(21, 4, seed=3)
    seen = [index for batch in taken(order, order.steps(2)) for index in batch]
    first, second = seen[:21], seen[21:42]
    assert sorted(first) == sorted(second) == list(range(21))
    assert first != second


@pytest.mark.parametrize("start", [0, 1, 7, 40])
@pytest.mark.parametrize("sizes", [None, [17 * number % 30 for number in range(23)]])
def test_it_goes_on_from_any_step(start: int, sizes: list[int] | None) -> None:
    order = Order(23, 3, batches=2, seed=1, sizes=sizes)
    assert taken(order, 3, start) == taken(order, start + 3)[start * 2 :]


def test_processes_share_what_one_would_take() -> None:
    alone = Order(30, 6, seed=5)
    shares = [Order(30, 3, processes=2, rank=rank, seed=5) for rank in range(2)]
    for whole, *parts in zip(taken(alone, 9), *(taken(share, 9) for share in shares), strict=True):
        assert whole == parts[0] + parts[1]


def test_examples_of_like_length_come_together() -> None:
    sizes = [number % 10 for number in range(200)]
    order = Order(200, 10, sizes=sizes)
    batches = taken(order, 20)
    assert Counter(index for batch in batches for index in batch) == Counter(range(200))
    assert all(max(sizes[index] for index in batch) - min(sizes[index] for index in batch) <= 1 for batch in batches)
    assert len({sizes[batch[0]] for batch in batches[:6]}) > 2

"""The loops that write answers: of one prompt, step by step, and of many at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..errors import GenerationError
from .batch import Batch
from .cuda_graph import fits_prefill_graph
from .network import Network
from .sequence import Request, RequestOutput, TokenOutput

T = TypeVar("T")


def take_prefill_group(waiting: deque[T], most: int, request_of: Callable[[T], Request]) -> list[T]:
    """Take from the head of a queue what is to be read together: `most` at most, or one however long."""
    group: list[T] = []
    lengths: list[int] = []
    while waiting and len(group) < most:
        lengths.append(len(request_of(waiting[0]).token_ids))
        if group and not fits_prefill_graph(lengths):
            break
        group.append(waiting.popleft())
    return group


def generate(network: Network, request: Request, *, eos_token_id: int) -> Iterator[TokenOutput]:
    """Answer one prompt, a step at a time; closing the iterator stops.

    Args:
        network: answers.
        request: the prompt, and how its answer is sampled.
        end_id: the token that ends an answer.

    Raises:
        GenerationError: the logits are not numbers, or the device's memory does not suffice.
    """
    for _, step in generate_all(network, [request], eos_token_id=eos_token_id, rows=1):
        if isinstance(step, GenerationError):
            raise step
        yield step


def generate_all(
    network: Network, requests: Iterable[Request], *, eos_token_id: int, rows: int
) -> Iterator[RequestOutput]:
    """Answer prompts side by side, up to `rows` at a time and first come first served; yield what comes as it comes.

    An answer ends with a step that has a finish reason, or with an error that is its alone.

    Raises:
        GenerationError: the device's memory does not suffice.
    """
    waiting = deque(requests)
    longest = network.max_sequence_length
    capacity = max((request.room(longest) for request in waiting), default=0)
    batch = Batch(network, rows, capacity, eos_token_id)
    while waiting or batch.rows:
        while group := take_prefill_group(waiting, batch.free, lambda request: request):
            yield from batch.begin(*group)
        if batch.rows:
            yield from batch.step()

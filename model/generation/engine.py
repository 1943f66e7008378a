"""The loops that write answers: of one prompt, step by step, and of many at once."""

from collections import deque
from collections.abc import Iterable, Iterator

from ..errors import GenerationError
from .batch import Batch, Event, Request, Step
from .decoder import Network


def generate(network: Network, request: Request, *, end_id: int) -> Iterator[Step]:
    """Answer one prompt, a step at a time; closing the iterator stops.

    Args:
        network: answers.
        request: the prompt, and how its answer is sampled.
        end_id: the token that ends an answer.

    Raises:
        GenerationError: the logits are not numbers, or the device's memory does not suffice.
    """
    for _, step in generate_all(network, [request], end_id=end_id, rows=1):
        if isinstance(step, GenerationError):
            raise step
        yield step


def generate_all(network: Network, requests: Iterable[Request], *, end_id: int, rows: int) -> Iterator[Event]:
    """Answer prompts side by side, up to `rows` at a time and first come first served; yield what comes as it comes.

    An answer ends with a step that has a finish reason, or with an error that is its alone.

    Raises:
        GenerationError: the device's memory does not suffice.
    """
    waiting = deque(requests)
    longest = network.max_sequence_length
    capacity = max((len(one.token_ids) + one.budget(longest) for one in waiting), default=0)
    batch = Batch(network, min(rows, len(waiting)), capacity, end_id) if waiting else None
    while batch is not None and (waiting or batch.requests):
        while waiting and batch.free:
            yield from batch.begin(waiting.popleft())
        if batch.requests:
            yield from batch.step()

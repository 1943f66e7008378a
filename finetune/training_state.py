"""The state of a training: everything in a checkpoint except weights and optimizer."""

import json
from dataclasses import dataclass, field, fields

COUNTS = ("step", "examples", "step_size", "seed", "processes", "skipped", "worse")


@dataclass
class State:
    """Where a training is.

    Attributes:
        step: optimiser steps that were made.
        examples: in the data, and in a step, which decide what comes next.
        step_size: see `examples`.
        seed: of the order.
        processes: that trained together.
        skipped: steps without room in float16.
        best_loss: lowest held-out loss; None before the first evaluation.
        worse: evaluations since then.
        train_hashes, valid_hashes: SHA-256 of each file of the training data and of the held-out data; empty in a
            checkpoint that an earlier version wrote.
    """

    step: int
    examples: int
    step_size: int
    seed: int
    processes: int
    skipped: int = 0
    best_loss: float | None = None
    worse: int = 0
    train_hashes: list[str] = field(default_factory=list)
    valid_hashes: list[str] = field(default_factory=list)


def parse_state(text: str) -> State:
    """Read a state from its JSON.

    Raises:
        ValueError: it is no state.
    """
    try:
        entries = json.loads(text)
        state = State(**{entry.name: entries[entry.name] for entry in fields(State) if entry.name in entries})
    except (TypeError, RecursionError) as error:
        raise ValueError("it lacks entries") from error
    if any(type(getattr(state, name)) is not int for name in COUNTS):
        raise ValueError("its entries are not numbers")
    if not isinstance(state.best_loss, float | int | None):
        raise ValueError("its best_loss is not a number")
    for hashes in (state.train_hashes, state.valid_hashes):
        if not isinstance(hashes, list) or not all(isinstance(digest, str) for digest in hashes):
            raise ValueError("its hashes are not a list of texts")
    return state

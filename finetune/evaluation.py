"""How well a model does on held-out data while it is trained: the loss, and answers of the chat itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch

from model import ImageError, SatChatModel

from .asking import Question, as_shown, ask_all, questions_of
from .data import Batch, ChatDataset, load_batches
from .encoding import NO_LOSS
from .processes import Processes
from .rows import sift_rows

SHOWN = 3  # sample answers
LONGEST_SHOWN = 500  # characters of each text of these
ROWS = 8  # answered at a time; the training needs memory, too


@dataclass(frozen=True)
class Score:
    """What came of an evaluation.

    Attributes:
        loss: for each answer token.
        exact: share of the answers that are as they should be; None where none were asked for.
        samples: questions, the wanted answers and those given.
    """

    loss: float
    exact: float | None = None
    samples: list[tuple[str, str, str]] = field(default_factory=list)


@torch.no_grad()
def held_out_loss(
    loss_of: Callable[[Batch], torch.Tensor], dataset: ChatDataset, batch_size: int, processes: Processes
) -> float:
    """Return the loss for each answer token, every process taking its share of the batches.

    Each makes as many forward passes as the others, as deepspeed's ZeRO 3 wants it.
    """
    batches = [list(range(len(dataset)))[start : start + batch_size] for start in range(0, len(dataset), batch_size)]
    rounds = -(-len(batches) // processes.count)
    mine = [number * processes.count + processes.rank for number in range(rounds)]
    total = tokens = 0.0
    loaded = load_batches(dataset, [batches[at % len(batches)] for at in mine])
    for number, batch in zip(mine, loaded, strict=True):
        loss = float(loss_of(batch))
        if number < len(batches):
            total += loss
            tokens += int((batch.labels != NO_LOSS).sum())
    return processes.sum(total) / processes.sum(tokens)


def ask(model: SatChatModel, dataset: ChatDataset, count: int) -> tuple[float, list[tuple[str, str, str]]]:
    """Ask the first `count` questions of held-out data whose pictures can be read, as `finetune.compare` does.

    Returns:
        The share of exactly right answers, and (question, expected, answer) of the first few.
    """
    asked = list(islice(readable_questions(dataset), count))
    answers = list(ask_all(model, asked, rows=ROWS))
    share = sum(answer.right for answer in answers) / len(answers)
    samples = [
        (shorten(one.text), shorten(as_shown(model.tokenizer, one.expected)), shorten(answer.text))
        for one, answer in list(zip(asked, answers, strict=True))[:SHOWN]
    ]
    return share, samples


def shorten(text: str) -> str:
    """Return the beginning of a text, in a length that can be shown."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def readable_questions(dataset: ChatDataset) -> Iterator[Question]:
    """Yield the questions of rows that can be used."""
    for one in questions_of(row for _, row in sift_rows(dataset.rows, [])):
        try:
            one.conversation()
        except ImageError:
            continue
        yield one

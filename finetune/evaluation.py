"""How well a model does on held-out data while it is trained: the loss, and answers of the chat itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from model import DEMO, Conversation, SatChatModel, VisualGLMError
from model.image import load_image
from model.prompt import clean_answer

from .data import Batch, ChatDataset, load_batches
from .encoding import LONGEST_TOKEN, NO_LOSS
from .errors import BadRowError
from .processes import Processes

SHOWN = 3  # sample answers
LONGEST_SHOWN = 500  # characters of each text of these
ROWS = 8  # answered side by side
SPARE = 16  # tokens that an answer may have beyond the longest wanted one


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


def ask(network: Any, tokenizer: Any, dataset: ChatDataset, count: int) -> tuple[float, list[tuple[str, str, str]]]:
    """Ask the last questions of the first `count` rows, and take the most likely answers.

    Returns:
        The share that is exactly as it should be, and (question, wanted, given) of the first few.
    """
    rows = usable_rows(dataset, count)
    asked = []
    for row in rows:
        image = None if row.image is None else load_image(row.image)
        language = row.language_of(len(row.turns) - 1)
        asked.append((Conversation(image, list(row.turns[:-1]), language), row.turns[-1].question))
    wanted = [clean_answer(row.turns[-1].answer) for row in rows]
    # An answer that goes on is wrong, however it ends. One that is cut here is longer than the model can give.
    most = network.max_sequence_length
    longest = min(max(len(tokenizer.encode_text(answer[: most * LONGEST_TOKEN])) for answer in wanted) + SPARE, most)
    config = DEMO.replace(temperature=0.0, repetition_penalty=1.0, max_new_tokens=longest)
    given = SatChatModel(network, tokenizer).answer_batch(asked, config, ROWS)
    answers = [str(answer) if isinstance(answer, VisualGLMError) else answer for answer in given]
    right = sum(answer.strip() == want for answer, want in zip(answers, wanted, strict=True))
    samples = list(zip((question for _, question in asked[:SHOWN]), wanted, answers, strict=False))
    return right / len(rows), [(shorten(question), shorten(want), shorten(given)) for question, want, given in samples]


def shorten(text: str) -> str:
    """Return the beginning of a text, in a length that can be shown."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def usable_rows(dataset: ChatDataset, count: int) -> Sequence[Any]:
    """Return the first `count` rows that can be used."""
    rows: list[Any] = []
    for index in range(len(dataset.rows)):
        if len(rows) == count:
            break
        try:
            rows.append(dataset.rows[index])
        except BadRowError:
            continue
    return rows

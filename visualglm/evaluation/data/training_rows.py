"""Turn rows of fine-tuning data into questions.

`finetune.rows.read_rows` reads them. This package does not import `finetune`; a program passes that function.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from model.prompt import Language, Turn

from .question import ImageFile, Question


class TrainingRow(Protocol):
    """A row of fine-tuning data: see `finetune.formats.Row`."""

    @property
    def number(self) -> int: ...

    @property
    def image(self) -> Path | None: ...

    @property
    def turns(self) -> Sequence[Turn]: ...

    @property
    def first_trained_turn(self) -> int: ...

    def language_of(self, turn: int) -> Language: ...


ReadTrainingRows = Callable[[Path], Iterable[TrainingRow]]


def read_training_rows(path: Path, read_rows: ReadTrainingRows) -> Iterator[Question]:
    """Yield a question for each answer that would be trained on; the turns before it are its history.

    Args:
        path: the data.
        read_rows: reads the rows, usually `finetune.rows.read_rows`.
    """
    for row in read_rows(path):
        image = None if row.image is None else ImageFile(str(row.image), row.image)
        group = "" if image is None else image.name
        for number in range(row.first_trained_turn, len(row.turns)):
            turn = row.turns[number]
            history = tuple((earlier.question, earlier.answer) for earlier in row.turns[:number])
            key = f"{row.number}.{number + 1}" if len(row.turns) > 1 else str(row.number)
            language = row.language_of(number).code
            yield Question(key, image, turn.question, (turn.answer,), group=group, history=history, language=language)

"""The errors of an evaluation that are shown to users.

VisualGLMError
└── EvaluationError          an evaluation cannot start, or its answers do not match its questions
    └── QuestionFileError    a file of questions cannot be used; the message names the file and the row
"""

from pathlib import Path

from model.errors import VisualGLMError


class EvaluationError(VisualGLMError):
    """An evaluation that cannot start, or whose answers do not match its questions."""


class QuestionFileError(EvaluationError):
    """A file of questions that cannot be used.

    Attributes:
        path: the file or folder.
        row: number of the row or line, counted from 1; None if the error concerns the whole file.
        reason: description of the error with advice.
    """

    def __init__(self, path: Path, row: int | None, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if row is None else f"{path}, row {row}: {reason}")
        self.path = path
        self.row = row
        self.reason = reason

    def __reduce__(self) -> tuple[type["QuestionFileError"], tuple[Path, int | None, str]]:  # workers pickle it
        return type(self), (self.path, self.row, self.reason)

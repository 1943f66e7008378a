"""Read earlier rounds of a dialogue in the forms that callers give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import QuestionError
from .prompt import Turn, require_text

HISTORY_FORMS = (
    "A history is a list of (question, answer) pairs, or of messages "
    '{"role": "user", "content": "..."} and {"role": "assistant", "content": "..."} in turn, oldest first; '
    "None or [] stands for no history."
)


def to_turns(history: Any) -> list[Turn]:
    """Convert a history to turns.

    Args:
        history: a list of (question, answer) pairs, of `Turn`s, or of messages {"role": ..., "content": ...} in which
            an assistant's follows each user's; the forms may be mixed. None for no history.

    Raises:
        QuestionError: it has another form, or something in it is not text.
    """
    if history is None:
        return []
    if not is_list(history):
        raise QuestionError(f"The history is of type {type(history).__name__}. {HISTORY_FORMS}")
    turns: list[Turn] = []
    question: str | None = None  # of a user's message, until the assistant's comes
    for number, item in enumerate(history):
        try:
            if question is not None:
                turns.append(Turn(question, read_message(item, "assistant")))
                question = None
            elif isinstance(item, Mapping):
                question = read_message(item, "user")
            else:
                turns.append(item if isinstance(item, Turn) else read_pair(item))
        except QuestionError as error:
            raise QuestionError(f"history[{number}] cannot be used: {error} {HISTORY_FORMS}") from None
    if question is not None:
        raise QuestionError("The history ends with a user's message without an answer. Pass it as the question.")
    return turns


def is_list(value: object) -> bool:
    """Whether `value` is a sequence, but not of characters or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def read_message(message: Any, role: str) -> str:
    """Return the content of a message, which should be of `role`."""
    if not isinstance(message, Mapping):
        raise QuestionError(f"A message of role {role!r} should stand here.")
    if message.get("role") != role:
        raise QuestionError(f"Its role is {str(message.get('role'))[:40]!r}; it should be {role!r}.")
    return require_text(message.get("content"), "content")


def read_pair(pair: Any) -> Turn:
    """Return the turn of a (question, answer) pair."""
    if not is_list(pair):
        raise QuestionError(f"It is of type {type(pair).__name__}.")
    if len(pair) != 2:
        raise QuestionError(f"It has {len(pair)} parts, not two.")
    return Turn(*pair)

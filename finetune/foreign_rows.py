"""Rows of other trainers' files as rows with `messages`: of LLaMA-Factory, ms-swift and TRL.

    {"instruction": "...", "input": "...", "output": "...", "history": [["...", "..."]], "images": ["a.png"]}
    {"query": "...", "response": "...", "images": ["a.png"]}
    {"conversations": [...], "chosen": {"from": "gpt", "value": "..."}, "rejected": {...}, "images": ["a.png"]}
    {"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}
    {"prompt": "...", "chosen": "...", "rejected": "..."}

Of two answers to compare, the chosen one is trained on. Earlier answers are only context of `chosen` and `completion`;
in alpaca's `history` they are trained on, as LLaMA-Factory does.
"""

from collections.abc import Collection, Mapping
from typing import Any

from model.errors import QuestionError
from model.prompt import to_turns

from .errors import RowFormatError, quote

INSTRUCTION_KEYS, RESPONSE_KEYS = ("instruction", "query"), ("output", "response")
CHOSEN, COMPLETION = "chosen", "completion"
REJECTED_KEYS = ("rejected", "rejected_response", "rejected_messages")
MESSAGE_KEYS = ("conversations", "messages")


def read_foreign(record: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return a row in the format with `messages`, and the keys that were read for it.

    A row in another format than those above is returned as it is, without keys.

    Raises:
        RowFormatError: the row has such a format, but lacks an answer.
    """
    rejected = tuple(key for key in REJECTED_KEYS if key in record)
    instruction = next((key for key in INSTRUCTION_KEYS if key in record), None)
    if has_answer(record):
        return record, rejected
    if CHOSEN in record and instruction is None:
        messages, keys = read_answered(record, CHOSEN)
    elif any(key in record for key in MESSAGE_KEYS):
        return record, rejected
    elif instruction is not None:
        messages, keys = read_instruction(record, instruction)
    elif COMPLETION in record:
        messages, keys = read_answered(record, COMPLETION)
    else:
        return record, rejected
    keys = (*keys, *rejected)
    rest = {key: value for key, value in record.items() if key not in keys}
    return {**rest, "messages": messages}, keys


def trains_last_answer(keys: Collection[str]) -> bool:
    """Return whether a row with these keys has a single answer to train on."""
    return CHOSEN in keys or COMPLETION in keys


def has_answer(record: Mapping[str, Any]) -> bool:
    """Return whether a row has the text `label`, or messages that end with an answer."""
    for key in MESSAGE_KEYS:
        messages = record.get(key)
        if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
            return messages[-1].get("role", messages[-1].get("from")) in ("assistant", "gpt")
    return isinstance(record.get("label"), str)


def read_instruction(record: Mapping[str, Any], key: str) -> tuple[list[Any], tuple[str, ...]]:
    """Return messages and keys of a row of alpaca's format, whose question is the value of `key`."""
    answer = next((name for name in (CHOSEN, *RESPONSE_KEYS) if record.get(name)), None)
    if answer is None:
        raise RowFormatError(f'it has "{key}", but none of the answers {quote([CHOSEN, *RESPONSE_KEYS])}')
    try:
        earlier = to_turns(record.get("history"))
    except QuestionError as error:
        raise RowFormatError(f'its "history" has another format: {error}') from None
    question = [record[key], record.get("input")]
    if not all(isinstance(text, str) for text in question if text is not None):
        raise RowFormatError(f'its "{key}" or "input" is not a text')
    last = to_messages("\n".join(filter(None, question)), "user") + to_messages(record[answer], "assistant")
    messages = [message for turn in earlier for message in turn_messages(turn.question, turn.answer)] + last
    return messages, (key, "input", "history", answer, *RESPONSE_KEYS)


def read_answered(record: Mapping[str, Any], key: str) -> tuple[list[Any], tuple[str, ...]]:
    """Return messages and keys of a row whose answer, or the whole conversation with it, is the value of `key`."""
    if record.get("label") is False:
        raise RowFormatError('its "label" is false: its answer is a bad example. Remove the row')
    opening = next((name for name in (*MESSAGE_KEYS, "prompt") if name in record), None)
    if opening is None and not isinstance(record[key], list):
        raise RowFormatError(f'it has "{key}", but no "prompt"')
    before = [] if opening is None else to_messages(record[opening], "user")
    label = ("label",) if record.get("label") is True else ()
    return before + to_messages(record[key], "assistant"), (key, *filter(None, [opening]), *label)


def to_messages(value: Any, role: str) -> list[Any]:
    """Return the messages of a value: a list of them, one message, or a text in a message of `role`."""
    if isinstance(value, list):
        return list(value)
    return [value if isinstance(value, Mapping) else {"role": role, "content": value}]


def turn_messages(question: str, answer: str) -> list[dict[str, str]]:
    """Return a question and its answer as messages."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

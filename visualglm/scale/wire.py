"""The bytes between the HTTP application and the replicas: questions, chunks, explanations, and errors as values.

Both ends run the same version of this project, in processes of one cluster, so the bytes are pickles of plain values.
"""

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import Any

from PIL import Image

from model import (
    CHINESE,
    ENGLISH,
    Conversation,
    Explanation,
    GenerationConfig,
    StreamChunk,
    Turn,
    Usage,
    VisualGLMError,
    errors,
)

ERROR_CLASSES: dict[str, type[VisualGLMError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, VisualGLMError)
}
KEY_BYTES = 4  # of the hash of an image
LANGUAGES = {language.code: language for language in (CHINESE, ENGLISH)}


def pack_question(conversation: Conversation, question: str, config: GenerationConfig, min_interval_s: float) -> bytes:
    """Encode a question with its settings, after the key of its image; see `image_key`."""
    return _pack(conversation, question, asdict(config), min_interval_s)


def pack_answer(conversation: Conversation, question: str, answer: str) -> bytes:
    """Encode a question with an answer to explain."""
    return _pack(conversation, question, answer)


def _pack(conversation: Conversation, *more: Any) -> bytes:
    """Encode a conversation and plain values, after the key of the image, which becomes RGB, one byte per channel."""
    image: Any = conversation.image
    if isinstance(image, Image.Image):
        rgb = image.convert("RGB")
        image = (rgb.size, rgb.tobytes())
    packed_image = pickle.dumps(image)
    key = 0 if image is None else zlib.crc32(packed_image) or 1
    turns = [(turn.question, turn.answer) for turn in conversation.turns]
    rest = pickle.dumps((packed_image, turns, conversation.language.code, *more))
    return key.to_bytes(KEY_BYTES) + rest


def image_key(question: bytes) -> int:
    """Return a hash of the image of a packed question; 0 without an image."""
    return int.from_bytes(question[:KEY_BYTES])


def unpack_question(data: bytes) -> tuple[Conversation, str, GenerationConfig, float]:
    """Decode a question of `pack_question`."""
    conversation, question, settings, min_interval_s = _unpack(data)
    return conversation, question, GenerationConfig(**settings), min_interval_s


def unpack_answer(data: bytes) -> tuple[Conversation, str, str]:
    """Decode a question with its answer of `pack_answer`."""
    conversation, question, answer = _unpack(data)
    return conversation, question, answer


def _unpack(data: bytes) -> tuple[Any, ...]:
    """Decode the conversation and the plain values of `_pack`."""
    packed_image, turns, language, *more = pickle.loads(memoryview(data)[KEY_BYTES:])
    image = pickle.loads(packed_image)
    if isinstance(image, tuple):
        image = Image.frombytes("RGB", *image)
    return Conversation(image, [Turn(*turn) for turn in turns], LANGUAGES[language]), *more


def pack_chunks(chunks: Sequence[StreamChunk]) -> bytes:
    """Encode chunks. They stay separate, so that the receiver can end an answer between two of them."""
    return pickle.dumps([(chunk.text, chunk.finish_reason, _usage_values(chunk), chunk.logprobs) for chunk in chunks])


def _usage_values(chunk: StreamChunk) -> tuple[Any, ...] | None:
    return None if chunk.usage is None else astuple(chunk.usage)


def pack_bundle(messages: Sequence[tuple[int, bytes | None]]) -> bytes:
    """Encode the packed chunks of several answers, each with the number of its answer; None ends an answer."""
    return pickle.dumps(messages)


def unpack_bundle(data: bytes) -> list[tuple[int, bytes | None]]:
    """Decode a bundle of `pack_bundle`."""
    messages: list[tuple[int, bytes | None]] = pickle.loads(data)
    return messages


def pack_carrier(number: int) -> bytes:
    """Encode the number of the call that carries the chunks of an answer."""
    return pickle.dumps(number)


def unpack_carrier(data: bytes) -> int:
    """Decode a number of `pack_carrier`."""
    number: int = pickle.loads(data)
    return number


def pack_error(error: VisualGLMError) -> bytes:
    """Encode an error with its class, message and attributes."""
    kind = next(kind for kind in type(error).__mro__ if kind.__name__ in ERROR_CLASSES)
    return pickle.dumps({"kind": kind.__name__, "message": str(error), "attributes": vars(error)})


def unpack_chunks(data: bytes) -> list[StreamChunk]:
    """Decode the chunks of `pack_chunks`.

    Raises:
        VisualGLMError: the bytes are an error of `pack_error`.
    """
    items = pickle.loads(data)
    if isinstance(items, dict):
        raise _make_error(items)
    return [
        StreamChunk(text, reason, None if usage is None else Usage(*usage), logprobs=logprobs)
        for text, reason, usage, logprobs in items
    ]


def pack_explanation(explanation: Explanation | None) -> bytes:
    """Encode an explanation without its answer and its image, which the receiver has."""
    parts = None
    if explanation is not None:
        parts = explanation.tokens, explanation.map, explanation.token_maps, explanation.token_reliance
    return pickle.dumps(parts)


def unpack_explanation(data: bytes, answer: str, image: Image.Image) -> Explanation | None:
    """Decode an explanation of `pack_explanation`.

    Raises:
        VisualGLMError: the bytes are an error of `pack_error`.
    """
    parts = pickle.loads(data)
    if isinstance(parts, dict):
        raise _make_error(parts)
    if parts is None:
        return None
    tokens, grid, token_maps, token_reliance = parts
    return Explanation(answer, tokens, grid, token_maps, token_reliance, image)


def _make_error(parts: dict[str, Any]) -> VisualGLMError:
    kind = ERROR_CLASSES[parts["kind"]]
    error = kind.__new__(kind)  # a constructor may take other arguments than the message
    error.args = (parts["message"],)
    vars(error).update(parts["attributes"])
    return error

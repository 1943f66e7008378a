"""Explanations of answers for the server and the page: computed one at a time, and converted to JSON."""

import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from model import ChatModel, Conversation, Explanation
from model.chat_model import NetworkChatModel
from model.explain import explain_answer
from model.explanation import MAX_NEW_TOKENS
from model.resource_errors import translate_resource_errors

MAX_TOKENS = MAX_NEW_TOKENS  # of an answer that is explained; its memory grows with its length
POLL_S = 0.1  # between two looks whether a waiting explanation is cancelled
DIGITS = 3  # of the numbers of a map, and of a reliance in nats


@runtime_checkable
class RemoteExplainer(Protocol):
    """A chat model whose network runs in other processes, which explain its answers."""

    def explain_answer(
        self, conversation: Conversation, question: str, answer: str, is_cancelled: Callable[[], bool]
    ) -> Explanation | None:
        """Explain an answer; see `Explainer.explain`."""
        ...


def can_explain(model: ChatModel | None) -> bool:
    """Return whether `Explainer.explain` accepts a model."""
    return isinstance(model, NetworkChatModel | RemoteExplainer)


class Explainer:
    """Explains answers, one at a time, to limit the memory and the computing time of explanations. Thread-safe.

    The limit is that of one process: a `RemoteExplainer` is called at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def explain(
        self,
        model: ChatModel,
        conversation: Conversation,
        question: str,
        answer: str,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Explanation | None:
        """Explain an answer; return None if it is empty or has more than MAX_TOKENS tokens.

        Args:
            model: a model for which `can_explain` holds.
            conversation: has an image.
            is_cancelled: asked while the explanation waits for others; once it returns true, the result is None.

        Raises:
            VisualGLMError: the answer cannot be explained.
        """
        if isinstance(model, RemoteExplainer):
            return model.explain_answer(conversation, question, answer, is_cancelled)
        assert isinstance(model, NetworkChatModel)
        if not 0 < len(model.tokenizer.encode_text(answer)) <= MAX_TOKENS:
            return None
        while not self._lock.acquire(timeout=POLL_S):
            if is_cancelled():
                return None
        try:
            if is_cancelled():
                return None
            with translate_resource_errors():
                return explain_answer(model, conversation, question, answer)
        finally:
            self._lock.release()


def describe_explanation(explanation: Explanation, *, with_token_maps: bool = False) -> dict[str, Any]:
    """Return an explanation as JSON values, with rounded numbers.

    Args:
        with_token_maps: whether each token has a map of its own.
    """
    return {
        "map": round_map(explanation.map),
        "peak": None if explanation.peak is None else [round(part, 4) for part in explanation.peak],
        "reliance": round(explanation.reliance, DIGITS),
        "tokens": [describe_token(explanation, index, with_token_maps) for index in range(len(explanation.tokens))],
    }


def describe_token(explanation: Explanation, index: int, with_map: bool) -> dict[str, Any]:
    """Return one token of an explanation as JSON values."""
    token = explanation.tokens[index]
    described = {
        "token": token.text,
        "bytes": [*token.bytes],
        "reliance": round(float(explanation.token_reliance[index]), DIGITS),
    }
    return described | ({"map": round_map(explanation.token_maps[index])} if with_map else {})


def round_map(grid: Any) -> list[list[float]]:
    """Return a map, float32 [R, C], as rows of rounded numbers."""
    return [[round(value, DIGITS) for value in row] for row in grid.tolist()]

"""Explanations for the page: an answer's map, and maps of its tokens, as the client reads them."""

import asyncio
import base64
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import Request

from model import Explanation, ScoredToken

from ..explanations import Explainer
from .answers import Question
from .errors import PageError

LEVELS = 255  # of a map's numbers


async def explain_answer(
    request: Request, question: Question, answer: str, explainer: Explainer, pool: ThreadPoolExecutor
) -> dict[str, Any]:
    """Explain an answer in a thread; an explanation that waits for others is cancelled if the client disconnects.

    Raises:
        PageError: not_explained, the answer is too long.
        VisualGLMError: the answer cannot be explained.
    """
    cancelled = threading.Event()
    listener = asyncio.create_task(_set_on_disconnect(request, cancelled))
    explain = partial(explainer.explain, question.model, question.conversation, question.text, answer, cancelled.is_set)
    try:
        explanation = await asyncio.get_running_loop().run_in_executor(pool, explain)
    finally:
        cancelled.set()
        listener.cancel()
    if explanation is None:
        raise PageError("not_explained")
    return describe_explanation(explanation, answer)


async def _set_on_disconnect(request: Request, cancelled: threading.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancelled.set()


def describe_explanation(explanation: Explanation, answer: str) -> dict[str, Any]:
    """Return an explanation as the client reads it.

    Maps are base64 of one byte for each patch, by rows; null if they are 0 everywhere. The tokens have the places of
    their text in the answer; there are none if these are not known.
    """
    rows, columns = explanation.map.shape
    tokens = [
        {"start": start, "end": end, "reliance": round(float(reliance), 3), "map": encode_map(grid)}
        for (start, end), reliance, grid in zip(
            find_tokens(explanation.tokens, answer),
            explanation.token_reliance,
            explanation.token_maps,
            strict=False,  # no places: no tokens
        )
    ]
    return {"rows": rows, "columns": columns, "map": encode_map(explanation.map), "tokens": tokens}


def encode_map(grid: np.ndarray) -> str | None:
    """Return a map [R, C] of numbers from 0 to 1 as base64 of its bytes; None if it is 0 everywhere."""
    levels = np.round(grid * LEVELS).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode("ascii") if levels.any() else None


def find_tokens(tokens: Sequence[ScoredToken], answer: str) -> list[tuple[int, int]]:
    """Return start and end of each token in an answer, in UTF-16 units, as JavaScript counts them.

    Spaces are left out of the comparison, because the clean-up of an answer adds and removes some. If the other
    characters differ in number, the result is empty. A token without such characters has an empty place.
    """
    places = list(_visible_places(answer))
    ends = [_visible_length(text) for text in _texts_until(tokens)]
    if not ends or ends[-1] != len(places):
        return []
    starts = [0, *ends[:-1]]
    return [(places[i][0], places[j - 1][1]) if i < j else (0, 0) for i, j in zip(starts, ends, strict=True)]


def _visible_places(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each character that is no space, in UTF-16 units."""
    unit = 0
    for character in text:
        size = 1 + (ord(character) > 0xFFFF)
        if not character.isspace():
            yield unit, unit + size
        unit += size


def _texts_until(tokens: Sequence[ScoredToken]) -> Iterator[str]:
    """Yield the text up to the end of each token, without a character that is not complete."""
    data = b""
    for token in tokens:
        data += token.bytes
        yield data.decode("utf-8", "ignore")


def _visible_length(text: str) -> int:
    return sum(not character.isspace() for character in text)

"""Find misspelled keys of a request, and other names of the image, which would be ignored without a word."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from .refusals import Refusal

IMAGE_NAMES = frozenset(
    f"{prefix}{name}{suffix}"
    for name in ("image", "images", "img", "imgs", "picture", "pictures", "photo", "pic")
    for prefix in ("", "input_", "base64_")
    for suffix in ("", "_url", "_urls", "_path", "_file", "_base64", "_b64", "_data")
) - {"image"}
MAX_KEYS = 100  # that are looked at; a request may have thousands
SHORT = 4  # letters of a name, of which many other words differ by two
NOTHING: tuple[object, ...] = (None, "", [], {})


def refuse_misspelled(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check that no unknown key of a request is nearly a known one, or another name of the image.

    Nearly means: in other case, or up to two letters away, a letter being inserted, left out, replaced, or swapped with
    its neighbour. Names of up to four letters (`text`, `seed`, `top_k`) have many neighbours, so that only one letter
    counts there, and only where the name itself is absent. A key whose value is null or empty is ignored.

    Raises:
        Refusal: 400; it names the key and the one that is known.
    """
    names = tuple(known)
    for key in islice((key for key in given if key not in names), MAX_KEYS):
        if given[key] in NOTHING:
            continue
        lower = key.lower().replace("-", "_")
        if lower in IMAGE_NAMES:
            raise _refuse(key, "image", "holds the picture, as base64 text or a data URL")
        near = next(
            (name for name in names if is_near(lower, name) and (not is_short(name) or name not in given)), None
        )
        if near is not None:
            raise _refuse(key, near, "is perhaps meant")


def is_short(name: str) -> bool:
    """Whether a name has so few letters that unrelated words are two letters away."""
    return len(name.replace("_", "")) <= SHORT


def is_near(key: str, name: str) -> bool:
    """Whether a key is a known name with one or two letters wrong."""
    return distance(key, name, 1 if is_short(name) else 2) is not None


def distance(first: str, second: str, limit: int) -> int | None:
    """Return how many letters to insert, delete, replace or swap with their neighbours make two words equal.

    None if it is more than `limit`. Optimal string alignment, after Damerau (1964).
    """
    if abs(len(first) - len(second)) > limit:
        return None
    before, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(second, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1] if row[-1] <= limit else None


def _refuse(key: str, name: str, reason: str) -> Refusal:
    message = f"The key {key[:100]!r} is not known: {name!r} {reason}. Rename it, or leave it out."
    return Refusal(400, message, code="unknown_key", param=key[:100])

"""One thing to talk about, beside pictures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One thing to talk about.

    Attributes:
        questions: ways to bring it up, templates of `tiny.words.wordings`.
        answer: the one reply.
        pattern: a regular expression, lower case, that every acceptable reply contains.
    """

    questions: tuple[str, ...]
    answer: str
    pattern: str

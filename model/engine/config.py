"""How an answer is sampled, and the only place where a default of it is written."""

import argparse
import numbers
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import SettingError

IdRange = tuple[int, int]  # half-open


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Settings of one answer. The defaults are those of the original's `chat()`.

    Numbers may be of any library: scalars of numpy and tensors of no dimension are stored as Python's own.

    Attributes:
        max_length: tokens of prompt and answer together, the picture's included.
        max_new_tokens: tokens of the answer alone; None leaves max_length as the only limit.
        min_length: the answer may not end before prompt and answer have this many tokens.
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_k: sample among this many most likely tokens; 0 for all.
        top_p: sample among the fewest tokens whose probabilities reach this sum; 1 for all.
        repetition_penalty: lowers the logits of tokens that the answer already has; 1 changes nothing.
        seed: makes sampling repeatable; None draws a new one each time.
        forbidden_ids: token ids never to answer with, as half-open ranges; None leaves it to the language.

    Raises:
        SettingError: a value that makes no sense.
    """

    max_length: int = 1024
    max_new_tokens: int | None = None
    min_length: int = 0
    temperature: float = 0.95
    top_k: int = 30
    top_p: float = 0.7
    repetition_penalty: float = 1.2
    seed: int | None = None
    forbidden_ids: tuple[IdRange, ...] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, to_plain_number(getattr(self, item.name)))
        checks = [
            ("max_length", self.max_length, is_whole(self.max_length, 1), "a whole number of at least 1"),
            (
                "max_new_tokens",
                self.max_new_tokens,
                self.max_new_tokens is None or is_whole(self.max_new_tokens, 1),
                "a whole number of at least 1, or None",
            ),
            ("min_length", self.min_length, is_whole(self.min_length, 0), "a whole number of at least 0"),
            ("temperature", self.temperature, is_number(self.temperature, 0, 100), "between 0 and 100"),
            ("top_k", self.top_k, is_whole(self.top_k, 0), "a whole number of at least 0 (0 for all tokens)"),
            ("top_p", self.top_p, is_number(self.top_p, 0, 1), "between 0 and 1 (1 for all tokens)"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                is_number(self.repetition_penalty, 1, 100),
                "between 1 (none) and 100",
            ),
            (
                "seed",
                self.seed,
                self.seed is None or (is_whole(self.seed, 0) and self.seed < 2**63),
                "a whole number from 0 to 2**63 - 1",
            ),
        ]
        for name, value, fine, wanted in checks:
            if not fine:
                raise SettingError(f"{name} is {value!r}; it should be {wanted}.")

    def replace(self, **changes: Any) -> "GenerationConfig":
        """Return a copy with some settings changed; None leaves a setting as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add a flag for each setting that a person may choose; without it the setting is None."""
        group = parser.add_argument_group(
            "how answers are sampled", "Defaults are those of the model's generation_config.json, else the ones below."
        )
        for name, (kind, text) in FLAGS.items():
            group.add_argument(f"--{name}", type=kind, help=f"{text} (default {getattr(self, name)})")

    def from_arguments(self, args: argparse.Namespace) -> "GenerationConfig":
        """Return this configuration with the values that the flags of `add_arguments` were given."""
        known = {field.name for field in fields(self)}
        return self.replace(**{name: value for name, value in vars(args).items() if name in known})


# The settings that the original's programs take, by its names.
ORIGINAL_SETTINGS = ("max_length", "min_length", "top_p", "top_k", "temperature", "repetition_penalty")
FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_length": (int, "tokens of prompt and answer together"),
    "top_p": (float, "sample among the fewest tokens whose probabilities reach this sum; 1 for all"),
    "top_k": (int, "sample among this many most likely tokens; 0 for all"),
    "temperature": (float, "divides the logits; 0 always takes the most likely token"),
    "repetition_penalty": (float, "lowers tokens that the answer already has; 1 for none"),
    "seed": (int, "makes answers repeatable"),
}


def to_plain_number(value: Any) -> Any:
    """Return a number of numpy, torch or another library as Python's int or float; anything else unchanged."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, numbers.Integral):
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, numbers.Real):
        with suppress(OverflowError):  # a fraction beyond all floats, which no setting can be
            return float(value)
    return value


def is_whole(value: Any, least: int) -> bool:
    """Whether `value` is an integer, not a boolean, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float, most: float) -> bool:
    """Whether `value` is a number between the bounds, both included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


CHAT = GenerationConfig()  # the original's chat()
HF_CHAT = GenerationConfig(min_length=100, top_p=0.4, top_k=100, temperature=0.8)  # its Hugging Face chat
DEMO = GenerationConfig(max_length=2048, top_p=0.4, top_k=100, temperature=0.8)  # its terminal, web page and API

"""Sampling parameters. Their defaults are defined in this module only."""

import argparse
import math
import numbers
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import SettingError

IdRange = tuple[int, int]  # half-open


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Sampling parameters of one answer. The defaults are the ones of the original's `chat()`.

    Numbers of numpy, torch and other libraries are converted to Python numbers.

    Attributes:
        max_length: maximum number of tokens of the prompt and the answer, image tokens included.
        max_new_tokens: maximum number of tokens of the answer; None for no limit but max_length.
        min_length: minimum number of tokens of the prompt and the answer, before which the answer may not end.
        temperature: divides the logits; 0 always takes the most likely token (greedy decoding).
        top_k: sample from the k most likely tokens; 0 for all tokens.
        top_p: sample from the fewest tokens whose probabilities sum to p (nucleus sampling); 1 for all tokens.
        repetition_penalty: lowers the logits of tokens that the answer already contains; 1 disables it.
        seed: random seed, for reproducible answers; None for a new one each time.
        forbidden_ids: half-open ranges of token ids that are never sampled; None for those of the language.
        top_logprobs: return the log-probability of each token, and of this number of most likely tokens beside it;
            None returns none.

    Raises:
        SettingError: a value is out of range or of the wrong type.
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
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, to_plain_number(getattr(self, item.name)))
        for name, valid in RANGES.items():
            value = getattr(self, name)
            if value not in valid and not (value is None and valid.is_optional):
                raise SettingError(f"{name} is {value!r}; it should be {valid}.")

    def replace(self, **changes: Any) -> "GenerationConfig":
        """Return a copy with some parameters changed; None keeps a parameter."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command-line flags of the sampling parameters; a flag that is not given has the value None."""
        group = parser.add_argument_group(
            "sampling parameters", "Defaults are read from the model's generation_config.json, otherwise as listed."
        )
        for name, (kind, text) in FLAGS.items():
            group.add_argument(f"--{name}", type=kind, help=f"{text} (default {getattr(self, name)})")

    def from_arguments(self, args: argparse.Namespace) -> "GenerationConfig":
        """Return a copy with the values of the given flags of `add_arguments`."""
        known = {field.name for field in fields(self)}
        return self.replace(**{name: value for name, value in vars(args).items() if name in known})


@dataclass(frozen=True)
class Range:
    """The valid values of a sampling parameter; `str` describes them.

    Attributes:
        is_integer: whether only integers are valid.
        most: the largest valid value; None for no limit.
        is_optional: whether None is valid, too.
        note: the meaning of a bound, for error messages.
    """

    is_integer: bool
    least: int
    most: int | None = None
    is_optional: bool = False
    note: str = ""

    def __contains__(self, value: object) -> bool:
        check = is_integer if self.is_integer else is_number
        return check(value, self.least, math.inf if self.most is None else self.most)

    def __str__(self) -> str:
        bounds = f"of at least {self.least}" if self.most is None else f"between {self.least} and {self.most}"
        kind = "an integer " if self.is_integer else ""
        return f"{kind}{bounds}{', or None' if self.is_optional else ''}{self.note}"


MAX_SEED = 2**63 - 1
MAX_TOP_LOGPROBS = 20
RANGES = {
    "max_length": Range(True, 1),
    "max_new_tokens": Range(True, 1, is_optional=True),
    "min_length": Range(True, 0),
    "temperature": Range(False, 0, 100),
    "top_k": Range(True, 0, note=" (0 for all tokens)"),
    "top_p": Range(False, 0, 1, note=" (1 for all tokens)"),
    "repetition_penalty": Range(False, 1, 100, note=" (1 for none)"),
    "seed": Range(True, 0, MAX_SEED, is_optional=True),
    "top_logprobs": Range(True, 0, MAX_TOP_LOGPROBS, is_optional=True),
}
# The parameters of the original's programs.
ORIGINAL_SETTINGS = ("max_length", "min_length", "top_p", "top_k", "temperature", "repetition_penalty")
FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_length": (int, "maximum tokens of the prompt and the answer"),
    "top_p": (float, "sample from the fewest tokens whose probabilities sum to p; 1 for all"),
    "top_k": (int, "sample from the k most likely tokens; 0 for all"),
    "temperature": (float, "divides the logits; 0 for greedy decoding"),
    "repetition_penalty": (float, "lowers the logits of tokens that the answer already contains; 1 for none"),
    "seed": (int, "random seed, for reproducible answers"),
}


def to_plain_number(value: Any) -> Any:
    """Convert a number of numpy, torch or another library to int or float; return anything else unchanged."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, numbers.Integral):
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, numbers.Real):
        with suppress(OverflowError):  # a fraction beyond the range of float is rejected later
            return float(value)
    return value


def is_integer(value: Any, least: int, most: float = math.inf) -> bool:
    """Return whether `value` is an integer, not a boolean, between the bounds, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, least: float, most: float) -> bool:
    """Return whether `value` is a number between the bounds, both included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


CHAT = GenerationConfig()  # the original's chat()
HF_CHAT = GenerationConfig(min_length=100, top_p=0.4, top_k=100, temperature=0.8)  # its Hugging Face chat
DEMO = GenerationConfig(max_length=2048, top_p=0.4, top_k=100, temperature=0.8)  # its terminal, web page and API

"""Describe a model to its users: its name, and the training domain stated in its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .prompt import CHINESE, Language

CONFIG_KEY = "description"  # in a configuration: {"en": "drawn scenes only", "zh": "..."}
MAX_LENGTH = 200  # characters; longer texts are truncated


@dataclass(frozen=True)
class Description:
    """The name of a model and a sentence about its training domain.

    Attributes:
        name: "" if there is none.
        knowledge: sentence about the training domain for each language code; empty if the configuration has none.
    """

    name: str = ""
    knowledge: Mapping[str, str] = field(default_factory=dict)

    def in_language(self, language: Language) -> str:
        """Return the name, followed by the sentence in `language` if there is one."""
        colon = "：" if language is CHINESE else ": "
        return colon.join(filter(None, [self.name, self.knowledge.get(language.code, "")]))


UNNAMED = Description()


def read_description(config: Mapping[str, Any]) -> dict[str, str]:
    """Read the sentences of a configuration by language code, each on one line; {} for other formats."""
    given = config.get(CONFIG_KEY)
    texts = given if isinstance(given, dict) else {}
    return {
        code: " ".join(text.split())[:MAX_LENGTH]
        for code, text in texts.items()
        if isinstance(code, str) and isinstance(text, str)
    }

"""The description of a model for its users: its name, and the knowledge that its configuration states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .prompt import CHINESE, Language

CONFIG_KEY = "description"  # of a configuration: {"en": "drawn scenes only", "zh": "..."}
MAX_LENGTH = 200  # characters that are shown


@dataclass(frozen=True)
class Description:
    """The name of a model and a sentence about its knowledge.

    Attributes:
        name: "" if there is none.
        knowledge: what it knows, by the code of a language; empty if the configuration does not say.
    """

    name: str = ""
    knowledge: Mapping[str, str] = field(default_factory=dict)

    def in_language(self, language: Language) -> str:
        """Return the name, followed by the sentence about its knowledge in `language` if there is one."""
        colon = "：" if language is CHINESE else ": "
        return colon.join(filter(None, [self.name, self.knowledge.get(language.code, "")]))


UNNAMED = Description()


def read_description(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the descriptions in a configuration by language, each as one line; empty for any other form."""
    given = config.get(CONFIG_KEY)
    texts = given if isinstance(given, dict) else {}
    return {
        code: " ".join(text.split())[:MAX_LENGTH]
        for code, text in texts.items()
        if isinstance(code, str) and isinstance(text, str)
    }

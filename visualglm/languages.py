"""The language that a program asks its model in, and the one in which it speaks to its user."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from model import CHINESE, ENGLISH, ChatModel, Conversation, GenerationConfig, Language, Piece
from model.description import Description

LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set wins, as POSIX has it


def locale_language(environment: Mapping[str, str]) -> Language:
    """Return the language of the locale in `environment`: Chinese for zh, English for all others, C and none."""
    name = next(filter(None, map(environment.get, LOCALE_VARIABLES)), "")
    return CHINESE if name.lower().startswith("zh") else ENGLISH


class OneLanguageModel:
    """A ChatModel that writes every prompt in one language, whatever language the question has.

    Args:
        model: answers.
        language: of the prompts.
    """

    def __init__(self, model: ChatModel, language: Language) -> None:
        self.model = model
        self.language = language

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that the model sees."""
        return self.model.image_size

    @property
    def description(self) -> Description:
        """The model's name and a sentence about its knowledge."""
        return self.model.description

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Sampling settings that the model's directory names."""
        return getattr(self.model, "sampling", {})

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, **options: Any
    ) -> Iterator[Piece]:
        """Answer `question`; see `ChatModel`."""
        return self.model.stream_answer(replace(conversation, language=self.language), question, config, **options)

    def warm_up(self) -> None:
        """Do what the first answer would have to wait for."""
        self.model.warm_up()

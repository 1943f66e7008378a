"""A chat with a scripted model and a scripted user."""

from collections.abc import Callable, Iterator

from model import Conversation, GenerationConfig, Language, StreamChunk, Turn, Usage
from model.description import Description


class ScriptedModel:
    """Answers each question with the given chunks, and raises the exceptions among them."""

    def __init__(self, *answers: list[StreamChunk | BaseException]) -> None:
        self.answers = list(answers)
        self.inputs: list[tuple[list[Turn], str]] = []
        self.languages: list[Language] = []

    image_size = 224
    description = Description("scripted", {"en": "words only"})

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig
    ) -> Iterator[StreamChunk]:
        self.languages.append(conversation.language)
        self.inputs.append((list(conversation.turns), question))
        for item in self.answers.pop(0):
            if isinstance(item, BaseException):
                raise item
            yield item


def done(text: str, dropped_turns: int = 0, finish_reason: str = "stop") -> list[StreamChunk | BaseException]:
    return [StreamChunk(text), StreamChunk("", finish_reason, Usage(10, 5, dropped_turns, 0.1, 0.2))]


def scripted_reader(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Return a reader of `lines`: it raises the exceptions among them, and EOFError after the last."""
    left = [*lines, EOFError]

    def read(prompt: str) -> str:
        print(prompt, end="")
        line = left.pop(0)
        if isinstance(line, str):
            return line
        raise line

    return read

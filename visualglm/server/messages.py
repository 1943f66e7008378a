"""The messages of chat completions -> a question with its history and picture, or a refusal that names what is odd."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from model import Turn

from .api_errors import ApiError
from .content import message_error, read_content
from .schemas import Message


@dataclass
class MergedMessage:
    """What one side said in one go, its messages joined.

    Attributes:
        role: user or assistant.
    """

    role: str
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n".join(self.texts)


def read_messages(messages: Sequence[Message]) -> tuple[str, list[Turn], str | None]:
    """Return the question, the earlier rounds, and the picture as it was given.

    System messages are put before the first question. Messages of one side in a row are joined by line breaks.

    Raises:
        Refusal: 400, they are no dialogue that ends with a question about at most one picture.
    """
    merged: list[MergedMessage] = []
    system: list[str] = []
    pictures: dict[str, None] = {}
    texts: list[str]
    urls: list[str]
    for number, message in enumerate(messages):
        where = f"messages.{number}.content"
        if message.content is None and message.role == "assistant":  # other servers answer so with reasoning alone
            texts, urls = [], []
        else:
            text, urls = read_content(message.content, where)
            texts = [text]
        if urls and message.role != "user":
            raise message_error("A picture belongs into a message of the user.", where)
        pictures |= dict.fromkeys(urls)
        if message.role in ("system", "developer"):
            system += texts
        elif merged and merged[-1].role == message.role:
            merged[-1].texts += texts
        else:
            merged.append(MergedMessage(message.role, texts))
    if len(pictures) > 1:
        reason = f"There are {len(pictures)} pictures; the model sees one in a conversation. Send one of them."
        raise ApiError(400, reason, code="too_many_images", param="messages")
    return *_to_turns(merged, system), next(iter(pictures), None)


def _to_turns(merged: list[MergedMessage], system: Sequence[str]) -> tuple[str, list[Turn]]:
    if not merged or merged[-1].role != "user":
        raise message_error("The last message should be the user's: there is nothing to answer.", "messages")
    if merged[0].role != "user":
        raise message_error("The first message but for system messages should be the user's.", "messages")
    if not merged[-1].text.strip():
        raise message_error("The last message has no text. Ask something, also about a picture.", "messages")
    merged[0].texts[:0] = [text for text in system if text.strip()]
    questions, answers = merged[::2], merged[1::2]
    turns = [Turn(asked.text, said.text) for asked, said in zip(questions, answers, strict=False)]
    return questions[-1].text, turns

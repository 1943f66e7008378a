"""The messages of chat completions -> a question with its history and picture, or a refusal that names what is odd."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from model import Turn

from .refusals import Refusal
from .schemas import CompletionRequest, Message, Part

# What other servers may do and this one does not, with the values that ask for nothing.
NOTHING: dict[str, tuple[object, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
# What makes no difference to an answer, whatever its value.
HARMLESS = ("metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier")
# What a message may bring without meaning anything here.
MESSAGE_NOTHING: dict[str, tuple[object, ...]] = {"refusal": (), "annotations": ([],), "tool_calls": ([],), "audio": ()}
HARMLESS_IN_MESSAGES = ("name",)


@dataclass
class Spoken:
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


def refuse_unsupported(asked: CompletionRequest) -> None:
    """Check that nothing is asked for that is not done.

    Raises:
        Refusal: 400, something is; the message names it.
    """
    _refuse_extra(asked.model_extra, NOTHING, HARMLESS, "")
    for number, message in enumerate(asked.messages):
        _refuse_extra(message.model_extra, MESSAGE_NOTHING, HARMLESS_IN_MESSAGES, f"messages.{number}.")
    if asked.stream_options is not None:
        nothing: dict[str, tuple[object, ...]] = {"include_obfuscation": (False, True)}
        _refuse_extra(asked.stream_options.model_extra, nothing, (), "stream_options.")
        if not asked.stream:
            reason = "stream_options is only for answers that are streamed. Leave it out, or set stream."
            raise Refusal(400, reason, code="invalid_value", param="stream_options")
    if asked.max_tokens and asked.max_completion_tokens and asked.max_tokens != asked.max_completion_tokens:
        reason = "max_tokens and max_completion_tokens differ. Give one of them."
        raise Refusal(400, reason, code="invalid_value", param="max_tokens")


def _refuse_extra(
    extra: dict[str, object] | None, nothing: dict[str, tuple[object, ...]], harmless: Sequence[str], where: str
) -> None:
    for name, value in (extra or {}).items():
        if value is None or name in harmless or any(_same(value, allowed) for allowed in nothing.get(name, ())):
            continue
        shown = where + name[:100]
        reason = "is not supported by this model" if name in nothing else "is not known here"
        raise Refusal(400, f"{shown} {reason}. Leave it out.", code="unsupported_parameter", param=shown)


def _same(value: object, allowed: object) -> bool:
    numbers = isinstance(value, int | float) and isinstance(allowed, int | float)
    return value == allowed and (isinstance(value, bool) is isinstance(allowed, bool) or not numbers)


def read_messages(messages: Sequence[Message]) -> tuple[str, list[Turn], str | None]:
    """Return the question, the earlier rounds, and the picture as it was given.

    System messages are put before the first question. Messages of one side in a row are joined by line breaks.

    Raises:
        Refusal: 400, they are no dialogue that ends with a question about at most one picture.
    """
    spoken: list[Spoken] = []
    system: list[str] = []
    pictures: dict[str, None] = {}
    for number, message in enumerate(messages):
        where = f"messages.{number}.content"
        text, found = read_content(message, where)
        if found and message.role != "user":
            raise _refuse("A picture belongs into a message of the user.", where)
        pictures |= dict.fromkeys(found)
        if message.role in ("system", "developer"):
            system.append(text)
        elif spoken and spoken[-1].role == message.role:
            spoken[-1].texts.append(text)
        else:
            spoken.append(Spoken(message.role, [text]))
    if len(pictures) > 1:
        reason = f"There are {len(pictures)} pictures; the model sees one in a conversation. Send one of them."
        raise Refusal(400, reason, code="too_many_images", param="messages")
    return *_to_turns(spoken, system), next(iter(pictures), None)


def _to_turns(spoken: list[Spoken], system: Sequence[str]) -> tuple[str, list[Turn]]:
    if not spoken or spoken[-1].role != "user":
        raise _refuse("The last message should be the user's: there is nothing to answer.", "messages")
    if spoken[0].role != "user":
        raise _refuse("The first message but for system messages should be the user's.", "messages")
    if not spoken[-1].text.strip():
        raise _refuse("The last message has no text. Ask something, also about a picture.", "messages")
    spoken[0].texts[:0] = [text for text in system if text.strip()]
    questions, answers = spoken[::2], spoken[1::2]
    turns = [Turn(asked.text, said.text) for asked, said in zip(questions, answers, strict=False)]
    return questions[-1].text, turns


def read_content(message: Message, where: str) -> tuple[str, list[str]]:
    """Return the text of a message and its pictures as they were given.

    Raises:
        Refusal: 400, it has neither, or a part does not hold what its type says.
    """
    if message.content is None:
        raise _refuse("A message needs content.", where)
    if isinstance(message.content, str):
        return message.content, []
    texts: list[str] = []
    pictures: list[str] = []
    for number, part in enumerate(message.content):
        kind, content = _read_part(part, f"{where}.{number}")
        (texts if kind == "text" else pictures).append(content)
    return "\n".join(texts), pictures


def _read_part(part: Part, where: str) -> tuple[str, str]:
    content = part.text if part.type == "text" else part.image_url.url if part.image_url else None
    if content is None:
        raise _refuse(f"A part of type {part.type} needs {part.type}.", where)
    if part.type == "image_url" and not content.strip():
        raise _refuse("The picture's url is empty.", where)
    return part.type, content


def _refuse(message: str, where: str) -> Refusal:
    return Refusal(400, message, code="invalid_messages", param=where)

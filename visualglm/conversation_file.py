"""Save conversations as JSON, which can be loaded again, or as text.

    {"format": "visualglm-conversation", "version": 1, "image": "data:image/png;base64,..." | null,
     "turns": [{"question": "...", "answer": "..."}]}

Loaded files are untrusted input: every field is validated, and no path or URL in them is opened.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from model import Language, Turn, VisualGLMError
from model.images.decode import SERVED_FORMATS
from model.images.preprocess import ImageLimits, decode_base64

FORMAT, VERSION = "visualglm-conversation", 1
MAX_BYTES = 100_000_000  # of a file
MAX_TURNS = 1000
MAX_CHARACTERS = 100_000  # of one question or answer
MAX_TEXT = 1_000_000  # characters of all questions and answers
# Brackets, commas and colons: parsing spends time and memory on each before anything is validated.
MAX_JSON_TOKENS = 500_000
MAX_PNG_BYTES = 8_000_000  # a larger image is saved as JPEG


LIMITS = ImageLimits(formats=SERVED_FORMATS)


class ConversationFileError(VisualGLMError):
    """The file is not a valid saved conversation."""


@dataclass(frozen=True)
class SavedConversation:
    """The content of a conversation file.

    Attributes:
        image: an RGB image, or None.
        turns: oldest first.
    """

    image: Image.Image | None = None
    turns: list[Turn] = field(default_factory=list)


def to_json(image: Image.Image | None, turns: Sequence[Turn]) -> str:
    """Return an RGB image and turns as JSON."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "image": None if image is None else to_data_url(image),
        "turns": [{"question": turn.question, "answer": turn.answer} for turn in turns],
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def to_data_url(image: Image.Image) -> str:
    """Encode an RGB image as a data URL: as PNG, or as JPEG if the PNG would be large."""
    for kind in ("png", "jpeg"):
        file = io.BytesIO()
        image.save(file, kind, quality=95)
        if file.tell() <= MAX_PNG_BYTES:
            break
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def to_markdown(turns: Sequence[Turn], language: Language) -> str:
    """Return turns as Markdown, without the image."""
    parts = [f"**{language.ask}** {turn.question}\n\n**{language.answer}** {turn.answer}\n" for turn in turns]
    return "\n".join(["# VisualGLM\n", *parts])


def to_text(turns: Sequence[Turn], language: Language) -> str:
    """Return turns as plain text."""
    return "\n".join(f"{language.ask} {turn.question}\n{language.answer} {turn.answer}\n" for turn in turns)


def from_json(data: bytes) -> SavedConversation:
    """Read a conversation that `to_json` or the page wrote.

    Raises:
        ConversationFileError: the file has another format, or is damaged.
        ImageError: its image is invalid or too large.
    """
    if len(data) > MAX_BYTES:
        raise ConversationFileError(f"The file has more than {MAX_BYTES:,} bytes. Choose a saved conversation.")
    if sum(data.count(mark) for mark in b"[{,:") > MAX_JSON_TOKENS:
        raise ConversationFileError("The file has too many parts. Choose a saved conversation.")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConversationFileError("The file is not JSON. Choose a saved conversation.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConversationFileError("The file is not a saved conversation. Choose another one.")
    if document.get("version") != VERSION:
        raise ConversationFileError(f"The conversation is not of version {VERSION}. Load it with a newer program.")
    turns = read_turns(document.get("turns"))
    return SavedConversation(read_image(document.get("image")), turns)


def read_image(value: Any) -> Image.Image | None:
    """Decode a conversation file's `image`, which is a data URL or null."""
    if value is None:
        return None
    if not isinstance(value, str) or value.lstrip()[:5].lower() != "data:":
        raise ConversationFileError("The file's image is not a data URL. Save the conversation again.")
    return decode_base64(value, limits=LIMITS)


def read_turns(value: Any) -> list[Turn]:
    """Validate the `turns` of a file and return them."""
    if not isinstance(value, list) or len(value) > MAX_TURNS:
        raise ConversationFileError(f"The file has no list of at most {MAX_TURNS} turns. Save the conversation again.")
    turns = [read_turn(number, item) for number, item in enumerate(value, 1)]
    if sum(len(turn.question) + len(turn.answer) for turn in turns) > MAX_TEXT:
        raise ConversationFileError(f"The file has more than {MAX_TEXT:,} characters of text. Remove some turns.")
    return turns


def read_turn(number: int, item: Any) -> Turn:
    """Validate one turn and return it; error messages name it by `number`, counted from 1."""
    texts = [item.get(name) if isinstance(item, dict) else None for name in ("question", "answer")]
    question, answer = (text if isinstance(text, str) and len(text) <= MAX_CHARACTERS else None for text in texts)
    if question is None or answer is None:
        raise ConversationFileError(
            f"Turn {number} of the file lacks a question or an answer of at most {MAX_CHARACTERS:,} characters. "
            "Correct or remove it."
        )
    return Turn(replace_surrogates(question), replace_surrogates(answer))


def replace_surrogates(text: str) -> str:
    r"""Replace lone surrogates ("\ud800"), which JSON can express but UTF-8 cannot, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")

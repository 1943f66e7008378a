"""Save conversations as JSON, which can be loaded again, or as Markdown.

    {"format": "visualglm-conversation", "version": 1, "image": "data:image/png;base64,..." | null,
     "turns": [{"question": "...", "answer": "..."}]}

Loaded files are untrusted input: every field is validated, and no path or URL in them is opened.
"""

import json
from typing import Any

from model import Language, VisualGLMError

from .images import UploadedImage, UploadedImageReader
from .session import MAX_TURNS, ConversationState, Status, TurnState
from .uploads import UploadFolder

FORMAT, VERSION = "visualglm-conversation", 1
MAX_CHARACTERS = 100_000  # of one question or answer
MAX_TEXT = 1_000_000  # characters of all questions and answers
# Brackets, commas and colons: parsing spends time and memory on each before anything is validated.
MAX_JSON_TOKENS = 500_000


class ConversationFileError(VisualGLMError):
    """The file is not a valid saved conversation."""


def to_json(conversation: ConversationState, folder: UploadFolder) -> tuple[str, bool]:
    """Return the image and the complete turns as JSON, and whether the image is the uploaded file."""
    image, is_original = conversation.image.to_data_url(folder) if conversation.image else (None, True)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "image": image,
        "turns": [{"question": turn.question, "answer": turn.answer} for turn in conversation.complete_turns],
    }
    return json.dumps(document, ensure_ascii=False, indent=1), is_original


def to_markdown(conversation: ConversationState, language: Language) -> str:
    """Return the text of the complete turns as Markdown, without the image."""
    turns = conversation.complete_turns
    parts = [f"**{language.ask}** {turn.question}\n\n**{language.answer}** {turn.answer}\n" for turn in turns]
    return "\n".join(["# VisualGLM\n", *parts])


def from_json(data: bytes, reader: UploadedImageReader) -> ConversationState:
    """Read a conversation that `to_json` wrote.

    Raises:
        ConversationFileError: the file has another format, or is damaged.
        ImageError: its image is invalid or too large.
        UploadError: the upload folder has no space for its image.
    """
    if sum(data.count(mark) for mark in b"[{,:") > MAX_JSON_TOKENS:
        raise ConversationFileError("The file has too many parts. Choose a conversation that this page has saved.")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConversationFileError("The file is not JSON. Choose a conversation that this page has saved.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConversationFileError("The file is not a saved conversation. Choose one that this page has saved.")
    if document.get("version") != VERSION:
        raise ConversationFileError(f"The conversation is not of version {VERSION}. Load it with a newer page.")
    turns = read_turns(document.get("turns"))
    return ConversationState(read_image(document.get("image"), reader), turns)


def read_image(value: Any, reader: UploadedImageReader) -> UploadedImage | None:
    """Decode a conversation file's `image`, which is a data URL or null."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConversationFileError("The file's image is not a data URL. Save the conversation again.")
    return reader.from_data_url(value)


def read_turns(value: Any) -> list[TurnState]:
    """Validate the `turns` of a file and return them."""
    if not isinstance(value, list) or len(value) > MAX_TURNS:
        raise ConversationFileError(f"The file has no list of at most {MAX_TURNS} turns. Save the conversation again.")
    turns = [read_turn(number, item) for number, item in enumerate(value, 1)]
    if sum(len(turn.question) + len(turn.answer) for turn in turns) > MAX_TEXT:
        raise ConversationFileError(f"The file has more than {MAX_TEXT:,} characters of text. Remove some turns.")
    return turns


def read_turn(number: int, item: Any) -> TurnState:
    """Validate one turn and return it; error messages name it by `number`, counted from 1."""
    texts = [item.get(name) if isinstance(item, dict) else None for name in ("question", "answer")]
    question, answer = (text if isinstance(text, str) and len(text) <= MAX_CHARACTERS else None for text in texts)
    if question is None or answer is None:
        raise ConversationFileError(
            f"Turn {number} of the file lacks a question or an answer of at most {MAX_CHARACTERS:,} characters. "
            "Correct or remove it."
        )
    return TurnState(replace_surrogates(question), replace_surrogates(answer), Status.DONE)


def replace_surrogates(text: str) -> str:
    r"""Replace lone surrogates ("\ud800"), which JSON can express but UTF-8 cannot, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")

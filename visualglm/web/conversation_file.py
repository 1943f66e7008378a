"""A conversation as a file: JSON that can be loaded again, and Markdown to read.

    {"format": "visualglm-conversation", "version": 1, "image": "data:image/png;base64,..." | null,
     "turns": [{"question": "...", "answer": "..."}]}

Loaded files are untrusted input: every field is validated, and no path or URL in them is opened.
"""

import json
from typing import Any

from model import Language, VisualGLMError

from .picture import Picture, PictureReader
from .session import MAX_TURNS, Dialogue, Exchange, Status
from .uploads import UploadFolder

FORMAT, VERSION = "visualglm-conversation", 1
MAX_CHARACTERS = 100_000  # of one question or answer
MAX_TEXT = 1_000_000  # characters of all questions and answers
MAX_MARKS = 500_000  # brackets, commas and colons: parsing takes time and memory for each, before anything is checked


class ConversationFileError(VisualGLMError):
    """A file that holds no conversation of ours."""


def to_json(dialogue: Dialogue, folder: UploadFolder) -> tuple[str, bool]:
    """Return a dialogue's picture and its complete exchanges, and whether the picture is the uploaded file."""
    image, is_original = dialogue.picture.to_data_url(folder) if dialogue.picture else (None, True)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "image": image,
        "turns": [{"question": turn.question, "answer": turn.answer} for turn in dialogue.turns],
    }
    return json.dumps(document, ensure_ascii=False, indent=1), is_original


def to_markdown(dialogue: Dialogue, language: Language) -> str:
    """Return the words of a dialogue's complete exchanges, to read and to quote, without the picture."""
    title = "# VisualGLM\n"
    parts = [f"**{language.ask}** {turn.question}\n\n**{language.answer}** {turn.answer}\n" for turn in dialogue.turns]
    return "\n".join([title, *parts])


def from_json(data: bytes, reader: PictureReader) -> Dialogue:
    """Read what `to_json` wrote.

    Raises:
        ConversationFileError: the file is something else, or damaged.
        ImageError: its picture is none, or too large.
        UploadError: there is no room for its picture.
    """
    if sum(data.count(mark) for mark in b"[{,:") > MAX_MARKS:
        raise ConversationFileError("The file has too many parts. Choose one that this page has saved.")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConversationFileError("The file is not JSON. Choose one that this page has saved.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConversationFileError("The file is not a saved conversation. Choose one that this page has saved.")
    if document.get("version") != VERSION:
        raise ConversationFileError(f"The conversation is not of version {VERSION}. Load it with a newer page.")
    turns = read_turns(document.get("turns"))
    return Dialogue(read_image(document.get("image"), reader), turns)


def read_image(value: Any, reader: PictureReader) -> Picture | None:
    """Return the picture in a file's `image`, which is a data URL or null."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConversationFileError("The file's image is not a data URL. Save the conversation anew.")
    return reader.from_data_url(value)


def read_turns(value: Any) -> list[Exchange]:
    """Return the exchanges in a file's `turns`."""
    if not isinstance(value, list) or len(value) > MAX_TURNS:
        raise ConversationFileError(f"The file has no list of at most {MAX_TURNS} turns. Save the conversation anew.")
    turns = [read_turn(number, item) for number, item in enumerate(value, 1)]
    if sum(len(turn.question) + len(turn.answer) for turn in turns) > MAX_TEXT:
        raise ConversationFileError(f"The file has more than {MAX_TEXT:,} characters of text. Remove some turns.")
    return turns


def read_turn(number: int, item: Any) -> Exchange:
    """Return one exchange; `number` tells which one an error is about."""
    texts = [item.get(name) if isinstance(item, dict) else None for name in ("question", "answer")]
    question, answer = (text if isinstance(text, str) and len(text) <= MAX_CHARACTERS else None for text in texts)
    if question is None or answer is None:
        raise ConversationFileError(
            f"Turn {number} of the file lacks a question or an answer of at most {MAX_CHARACTERS:,} characters. "
            "Mend or remove it."
        )
    return Exchange(without_surrogates(question), without_surrogates(answer), Status.DONE)


def without_surrogates(text: str) -> str:
    r"""Return `text` as UTF-8 can carry it: JSON can hold half a character ("\ud800"), nothing else can."""
    return text.encode("utf-8", "replace").decode("utf-8")

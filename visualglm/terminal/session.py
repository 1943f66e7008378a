"""The state of a terminal chat: conversation, image, settings, and what /undo returns to. Nothing is printed here."""

import re
import shlex
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from model import ChatModel, Conversation, GenerationConfig, Language, StreamChunk, Turn
from model.images.preprocess import load_image, resize_image
from model.prompt import question_language

from ..conversation_file import SavedConversation

MAX_SIDE = 2048  # pixels of the image that is kept for saving
MAX_UNDO = 100
PATH_START = re.compile(r"~?/|\.\.?/")  # of a word that is a path, even if there is no such file
IMAGE_SUFFIXES = re.compile(r"\.(png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|heic|heif|ico|ppm|pgm)$", re.IGNORECASE)
QUOTES = "\"'“”‘’"


@dataclass(frozen=True)
class ChatImage:
    """An image of the chat.

    Attributes:
        name: its path or URL, as it was given.
        original: an RGB image for saving and for the preview, at most `MAX_SIDE` pixels wide and high.
        resized: the model's input, resized once and not again for each question.
        size: width and height of the file's image.
    """

    name: str
    original: Image.Image
    resized: Image.Image
    size: tuple[int, int]


def make_image(name: str, image: Image.Image, side: int) -> ChatImage:
    """Prepare an RGB image for a model with an input of `side` pixels."""
    original = image
    if max(image.size) > MAX_SIDE:
        original = image.copy()
        original.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return ChatImage(name, original, resize_image(image, side), image.size)


@dataclass(frozen=True)
class Snapshot:
    """A state that /undo returns to."""

    conversation: Conversation
    image: ChatImage | None


class ChatSession:
    """A conversation with a model, its image and its settings.

    Args:
        model: generates the answers.
        config: the sampling parameters.
        language: of prompts until a question contains letters.
    """

    def __init__(self, model: ChatModel, config: GenerationConfig, language: Language) -> None:
        self.model = model
        self.config = config
        self.conversation = Conversation(language=language)
        self.image: ChatImage | None = None
        self.last_question: str | None = None
        self.is_verbose = False
        self.snapshots: list[Snapshot] = []

    def start(self, image: ChatImage | None) -> None:
        """Start a conversation about an image, or without one; `undo` returns to the current one."""
        if self.image or self.conversation.turns:
            self.keep_snapshot()
        self.image = image
        self.conversation = Conversation(image.resized if image else None, language=self.conversation.language)
        self.last_question = None

    def open_image(self, source: str) -> ChatImage:
        """Load the image at a path or URL.

        Raises:
            ImageError: it cannot be loaded.
        """
        path = to_path(source)
        return make_image(path, load_image(path), self.model.image_size)

    def open_saved(self, name: str, saved: SavedConversation) -> None:
        """Continue a saved conversation; `undo` returns to the current one."""
        self.start(None if saved.image is None else make_image(name, saved.image, self.model.image_size))
        self.conversation.turns.extend(saved.turns)
        self.last_question = saved.turns[-1].question if saved.turns else None

    def ask(self, question: str) -> Iterator[StreamChunk]:
        """Stream the answer to a question; `add_turn` adds it to the conversation."""
        self.last_question = question
        self.conversation.language = question_language(question, self.conversation.language)
        return self.model.stream_answer(self.conversation, question, self.config)

    def add_turn(self, question: str, answer: str) -> None:
        """Add a complete turn to the conversation."""
        self.keep_snapshot()
        self.conversation.turns.append(Turn(question, answer))

    def retry(self) -> str | None:
        """Return the last question, after removing its turn; None if there is none."""
        turns = self.conversation.turns
        if turns and turns[-1].question == self.last_question:
            self.keep_snapshot()
            turns.pop()
        return self.last_question

    def undo(self) -> bool:
        """Return to the state before the last change; return whether there was one."""
        if not self.snapshots:
            return False
        last = self.snapshots.pop()
        self.conversation, self.image = last.conversation, last.image
        turns = self.conversation.turns
        self.last_question = turns[-1].question if turns else None
        return True

    def keep_snapshot(self) -> None:
        """Keep the current state for `undo`."""
        copy = replace(self.conversation, turns=list(self.conversation.turns))
        self.snapshots = [*self.snapshots, Snapshot(copy, self.image)][-MAX_UNDO:]


def to_path(source: str) -> str:
    """Return the path of a file:// URL, percent-decoded; any other text unchanged."""
    text = source.strip().strip(QUOTES)
    parts = urllib.parse.urlsplit(text) if text[:5].lower() == "file:" else None
    if parts is None or parts.netloc not in ("", "localhost"):
        return source
    return urllib.request.url2pathname(parts.path)


def find_image_source(line: str) -> str | None:
    """Return the path or URL if a line consists of one, else None.

    It is an existing image file, any word like ./name.png or ~/name.png, or any URL with http, https or file. Quotes
    and backslashes are removed, which terminals add to the path of a dropped file.
    """
    text = line.strip()
    if re.fullmatch(r"(https?|file)://\S+", text.strip(QUOTES), re.IGNORECASE):
        return text.strip(QUOTES)
    try:
        words = shlex.split(text)
    except ValueError:  # an unpaired apostrophe
        words = []
    word = words[0] if len(words) == 1 else ""
    named = [candidate for candidate in (text, text.strip(QUOTES), word) if IMAGE_SUFFIXES.search(candidate)]
    existing = [candidate for candidate in named if is_file(candidate)]
    return next(iter(existing), word if word in named and PATH_START.match(word) else None)


def is_file(text: str) -> bool:
    """Return whether `text` is the path of a file, possibly one that begins with ~."""
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, or a null byte
        return False

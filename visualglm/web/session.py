"""Each visitor's conversation, and a limit on the memory of all conversations."""

import contextlib
import logging
import math
import sys
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from model import (
    CHINESE,
    ChatModel,
    Conversation,
    GenerationConfig,
    Language,
    StreamChunk,
    Turn,
    VisualGLMError,
)
from model.prompt import question_language

from .images import UploadedImage

MAX_TURNS = 1000  # of one conversation
REFRESH_INTERVAL_S = 0.05  # at most one update per interval: a browser redraws the complete answer for each
logger = logging.getLogger(__name__)


class Status(Enum):
    """The state of an answer. Only DONE and TRUNCATED turns are part of the conversation."""

    RUNNING = auto()
    DONE = auto()
    TRUNCATED = auto()  # the length limit was reached
    STOPPED = auto()
    FAILED = auto()
    INTERNAL_ERROR = auto()  # an unexpected exception; `error` is the id of its log entry


@dataclass
class TurnState:
    """A turn of the page: the question, the answer so far, and its status.

    Attributes:
        error: for FAILED the message for the visitor, for INTERNAL_ERROR the id of the log entry.
        dropped_turns: how many of the oldest turns were left out of the prompt.
    """

    question: str
    answer: str = ""
    status: Status = Status.RUNNING
    error: str = ""
    dropped_turns: int = 0

    @property
    def complete(self) -> bool:
        """Whether prompts of later questions include this turn."""
        return self.status in (Status.DONE, Status.TRUNCATED)

    def add(self, chunk: StreamChunk) -> None:
        """Append a chunk to the answer."""
        self.answer += chunk.text
        if chunk.finish_reason is not None:
            self.dropped_turns = chunk.usage.dropped_turns if chunk.usage is not None else 0
            self.status = Status.TRUNCATED if chunk.finish_reason == "length" else Status.DONE

    def stop(self) -> None:
        """Set the status of a running turn to STOPPED."""
        if self.status is Status.RUNNING:
            self.status = Status.STOPPED


@dataclass
class ConversationState:
    """A conversation of the page: an image or none, and the turns, oldest first."""

    image: UploadedImage | None = None
    turns: list[TurnState] = field(default_factory=list)

    @property
    def complete_turns(self) -> list[Turn]:
        """The turns that the prompt includes."""
        return [Turn(turn.question, turn.answer) for turn in self.turns if turn.complete]

    @property
    def memory(self) -> int:
        """Bytes of the texts and the image."""
        texts = sum(sys.getsizeof(turn.question) + sys.getsizeof(turn.answer) for turn in self.turns)
        return texts + (self.image.memory if self.image else 0)


@dataclass
class Session:
    """The server's state for one visitor.

    Several threads may use it at once, as when the visitor clicks Stop while an answer is generated. They synchronize
    through the status of the running turn: a thread that changes it ends the answer, and no thread changes a turn
    after its answer has ended.

    Attributes:
        language: of the page; each question chooses its own.
        conversation: the one that is shown.
        offered: a new conversation that waits until the visitor agrees to replace the current one.
        upload_read: set once the latest uploaded file has been read; questions wait for it.
        was_dropped: whether the conversation was removed to free memory and the visitor was not told yet.
    """

    language: Language = CHINESE
    conversation: ConversationState = field(default_factory=ConversationState)
    offered: ConversationState | None = None
    upload_read: threading.Event | None = None  # created for each file: Gradio copies the first session
    was_dropped: bool = False

    @property
    def memory(self) -> int:
        """Bytes of the session's conversations."""
        return self.conversation.memory + (self.offered.memory if self.offered else 0)

    def drop(self) -> None:
        """Remove the conversations to free their memory."""
        self.was_dropped = self.was_dropped or bool(self.conversation.turns or self.conversation.image)
        self.open(ConversationState())

    def stop(self) -> None:
        """Stop the running answer; the engine stops within one decode step."""
        for turn in self.conversation.turns:
            turn.stop()

    def open(self, conversation: ConversationState) -> None:
        """Replace the current conversation."""
        self.stop()
        self.conversation, self.offered = conversation, None

    def offer(self, conversation: ConversationState) -> bool:
        """Open `conversation` if the current one has no turns, else keep it until the visitor agrees.

        Returns:
            Whether it was opened.
        """
        if self.conversation.turns:
            self.offered = conversation
            return False
        self.open(conversation)
        return True

    def remove_from(self, index: int) -> str:
        """Remove the turn at `index` and all later ones; return its question, "" if there is no such turn."""
        self.stop()
        turns = self.conversation.turns
        removed = turns[index:] if index >= 0 else []
        del turns[len(turns) - len(removed) :]
        return removed[0].question if removed else ""

    def ask(self, model: ChatModel, question: str, config: GenerationConfig) -> Iterator[None]:
        """Generate an answer; yield whenever there is more to show. Closing the iterator stops the answer."""
        self.stop()
        turn = TurnState(question)
        history = self.conversation.complete_turns
        self.conversation.turns.append(turn)
        yield
        try:
            image = self.conversation.image and self.conversation.image.resized
            conversation = Conversation(image, history, question_language(question, self.language, history))
            chunks = model.stream_answer(conversation, question, config)
            for _ in throttle(REFRESH_INTERVAL_S, append_chunks(turn, chunks)):
                yield
        except VisualGLMError as error:
            turn.status, turn.error = Status.FAILED, str(error)
        except Exception:  # an unexpected error must not end the page
            turn.status, turn.error = Status.INTERNAL_ERROR, uuid.uuid4().hex[:8]
            logger.exception("Answer %s failed", turn.error)
        finally:
            turn.stop()
        yield


def append_chunks(turn: TurnState, chunks: Iterator[StreamChunk]) -> Iterator[None]:
    """Append `chunks` to a turn, yielding after each, until the turn has ended; then close them."""
    with contextlib.closing(chunks):  # type: ignore[type-var]
        for chunk in chunks:
            if turn.status is not Status.RUNNING:
                return
            turn.add(chunk)
            yield


def throttle(interval_s: float, ticks: Iterator[None]) -> Iterator[None]:
    """Yield for the first of `ticks`, then at most once per interval. The caller shows what came after the last."""
    shown = -math.inf
    with contextlib.closing(ticks):  # type: ignore[type-var]
        for _ in ticks:
            if time.monotonic() - shown >= interval_s:
                yield
                shown = time.monotonic()


MAX_MEMORY = 512 * 1024**2


class MemoryLimiter:
    """Limits the memory of all sessions: drops the conversations of the least recently used ones. Thread-safe.

    Args:
        max_memory: bytes of all conversations together.
    """

    def __init__(self, max_memory: int = MAX_MEMORY) -> None:
        self.max_memory = max_memory
        self._sizes: OrderedDict[int, tuple[weakref.ref[Session], int]] = OrderedDict()
        self._total = 0
        self._lock = threading.RLock()  # the garbage collector can call _remove while the lock is held

    @property
    def memory(self) -> int:
        """Bytes of the sessions at their latest updates."""
        return self._total

    def update(self, session: Session) -> None:
        """Count a session that has changed; drop conversations of other sessions if the limit is exceeded."""
        key = id(session)
        with self._lock:
            self._remove(key)
            size = session.memory
            self._sizes[key] = (weakref.ref(session, lambda _: self._remove(key)), size)
            self._total += size
            while self._total > self.max_memory and len(self._sizes) > 1:
                oldest = next(iter(self._sizes))
                dropped = self._sizes[oldest][0]()
                self._remove(oldest)
                if dropped is not None:
                    dropped.drop()

    def _remove(self, key: int) -> None:
        with self._lock:
            _, size = self._sizes.pop(key, (None, 0))
            self._total -= size

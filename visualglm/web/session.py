"""Keep each visitor's conversation, within a bound of memory for all."""

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

from .picture import Picture

MAX_TURNS = 1000  # of one conversation
REFRESH_S = 0.05  # pieces that come faster are shown together: a browser redraws the whole answer for each
logger = logging.getLogger(__name__)


class Status(Enum):
    """How far an answer has come. Only DONE and CUT ones are part of the conversation."""

    RUNNING = auto()
    DONE = auto()
    CUT = auto()  # a length limit ended it
    STOPPED = auto()
    FAILED = auto()
    BROKEN = auto()  # by a bug of ours; `error` is the number under which it is logged


@dataclass
class Exchange:
    """A question with its answer so far.

    Attributes:
        error: for FAILED what a person should know, for BROKEN the number in the log.
        dropped_turns: how many of the oldest turns the model was not shown.
    """

    question: str
    answer: str = ""
    status: Status = Status.RUNNING
    error: str = ""
    dropped_turns: int = 0

    @property
    def complete(self) -> bool:
        """Whether later questions build on it."""
        return self.status in (Status.DONE, Status.CUT)

    def add(self, piece: StreamChunk) -> None:
        """Take the next piece of the answer."""
        self.answer += piece.text
        if piece.finish_reason is not None:
            self.dropped_turns = piece.usage.dropped_turns if piece.usage is not None else 0
            self.status = Status.CUT if piece.finish_reason == "length" else Status.DONE

    def stop(self) -> None:
        """End it where it is, unless it has ended."""
        if self.status is Status.RUNNING:
            self.status = Status.STOPPED


@dataclass
class Dialogue:
    """A picture, or none, and what was said about it, oldest first."""

    picture: Picture | None = None
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def turns(self) -> list[Turn]:
        """What the model is shown of it."""
        return [Turn(exchange.question, exchange.answer) for exchange in self.exchanges if exchange.complete]

    @property
    def memory(self) -> int:
        """Bytes that its texts and its picture take."""
        texts = sum(sys.getsizeof(exchange.question) + sys.getsizeof(exchange.answer) for exchange in self.exchanges)
        return texts + (self.picture.memory if self.picture else 0)


@dataclass
class Session:
    """What the server keeps for one visitor.

    Several threads may be in it, as one can click Stop while an answer is written. They agree through the status of
    the running exchange: whoever changes it ends the answer, and no one else writes to an exchange that has ended.

    Attributes:
        language: of the page; questions choose their own.
        dialogue: the conversation that is shown.
        offered: one that waits for the visitor to agree that it takes the place of the other.
        reading: set when the file that was uploaded last has been read; questions wait for that.
        was_dropped: whether the conversation was removed to free memory, and the visitor does not know yet.
    """

    language: Language = CHINESE
    dialogue: Dialogue = field(default_factory=Dialogue)
    offered: Dialogue | None = None
    reading: threading.Event | None = None  # made for each file, because Gradio copies the first session
    was_dropped: bool = False

    @property
    def memory(self) -> int:
        """Bytes that its conversations take."""
        return self.dialogue.memory + (self.offered.memory if self.offered else 0)

    def drop(self) -> None:
        """Remove the conversations, to free their memory."""
        self.was_dropped = self.was_dropped or bool(self.dialogue.exchanges or self.dialogue.picture)
        self.open(Dialogue())

    def stop(self) -> None:
        """End the answer that is being written; the engine stops within a step."""
        for exchange in self.dialogue.exchanges:
            exchange.stop()

    def open(self, dialogue: Dialogue) -> None:
        """Put another conversation in the place of this one."""
        self.stop()
        self.dialogue, self.offered = dialogue, None

    def offer(self, dialogue: Dialogue) -> bool:
        """Open `dialogue` if nothing is lost by it, else keep it until the visitor agrees; return which it was."""
        if self.dialogue.exchanges:
            self.offered = dialogue
            return False
        self.open(dialogue)
        return True

    def cut(self, index: int) -> str:
        """Take back the exchange at `index` and all later ones; return its question, "" if there is none such."""
        self.stop()
        taken = self.dialogue.exchanges[index:] if index >= 0 else []
        del self.dialogue.exchanges[len(self.dialogue.exchanges) - len(taken) :]
        return taken[0].question if taken else ""

    def ask(self, model: ChatModel, question: str, config: GenerationConfig) -> Iterator[None]:
        """Let `model` answer; yield whenever there is more to show. Closing the iterator stops the answer."""
        self.stop()
        exchange = Exchange(question)
        exchanges, turns = self.dialogue.exchanges, self.dialogue.turns
        exchanges.append(exchange)
        yield
        try:
            image = self.dialogue.picture and self.dialogue.picture.image
            conversation = Conversation(image, turns, question_language(question, self.language, turns))
            for _ in every(REFRESH_S, write(exchange, model.stream_answer(conversation, question, config))):
                yield
        except VisualGLMError as error:
            exchange.status, exchange.error = Status.FAILED, str(error)
        except Exception:  # the page goes on, whatever a bug has broken
            exchange.status, exchange.error = Status.BROKEN, uuid.uuid4().hex[:8]
            logger.exception("Answer %s failed", exchange.error)
        finally:
            exchange.stop()
        yield


def write(exchange: Exchange, pieces: Iterator[StreamChunk]) -> Iterator[None]:
    """Put `pieces` into the exchange until it has ended, then close them."""
    with contextlib.closing(pieces):  # type: ignore[type-var]
        for piece in pieces:
            if exchange.status is not Status.RUNNING:
                return
            exchange.add(piece)
            yield


def every(seconds: float, ticks: Iterator[None]) -> Iterator[None]:
    """Yield for the first of `ticks` and then at most once in `seconds`; what was held back is for the caller."""
    shown = -math.inf
    with contextlib.closing(ticks):  # type: ignore[type-var]
        for _ in ticks:
            if time.monotonic() - shown >= seconds:
                yield
                shown = time.monotonic()


MAX_MEMORY = 512 * 1024**2


class Visitors:
    """Adds up the memory of all sessions, for any thread; beyond the bound, those unused for longest are dropped.

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
        """Bytes that the sessions took when they were last noted."""
        return self._total

    def note(self, session: Session) -> None:
        """Count a session that has changed; drop the conversations of others if there is too much."""
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

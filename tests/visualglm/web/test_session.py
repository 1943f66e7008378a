"""A visitor's session: which turns become part of the conversation, how answers are stopped, and memory limits."""

import copy
import gc
import logging
from collections.abc import Iterator

import pytest

from model import CHINESE, DEMO, ENGLISH, BusyError, Conversation, GenerationConfig, StreamChunk, Turn, Usage
from model.description import Description
from model.images.preprocess import load_image
from tests.helpers.cli_program import SCENE
from visualglm.web.images import UploadedImage
from visualglm.web.session import (
    ConversationState,
    MemoryLimiter,
    Session,
    Status,
    TurnState,
    question_language,
    throttle,
)


class Script:
    """Answers with the given chunks and raises the exceptions among them; records its input and its closing."""

    def __init__(self, *pieces: StreamChunk | Exception) -> None:
        self.pieces = pieces
        self.inputs: list[Conversation] = []
        self.closed = False

    image_size = 224
    description = Description("scripted")

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig
    ) -> Iterator[StreamChunk]:
        self.inputs.append(conversation)
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed = True


DONE = StreamChunk("", "stop", Usage(10, 2, 0, 0.1, 0.2))


def finish(session: Session, model: Script, question: str = "What?") -> TurnState:
    for _ in session.ask(model, question, DEMO):
        pass
    return session.conversation.turns[-1]


def test_only_complete_answers_are_remembered() -> None:
    session = Session()
    finish(session, Script(StreamChunk("one"), DONE), "first")
    finish(session, Script(StreamChunk("half"), BusyError("Later.")), "second")
    finish(session, Script(StreamChunk("two"), StreamChunk(" ", "length")), "third")
    model = Script(DONE)
    finish(session, model)
    assert model.inputs[0].turns == [Turn("first", "one"), Turn("third", "two ")]
    assert [turn.status for turn in session.conversation.turns] == [
        Status.DONE,
        Status.FAILED,
        Status.TRUNCATED,
        Status.DONE,
    ]


def test_an_error_shows_its_message_and_a_bug_only_its_number(caplog: pytest.LogCaptureFixture) -> None:
    assert finish(Session(), Script(BusyError("Come back later."))).error == "Come back later."
    with caplog.at_level(logging.ERROR, logger="visualglm.web.session"):
        broken = finish(Session(), Script(StreamChunk("It "), ZeroDivisionError("inside")))
    assert (broken.status, broken.answer, "inside" in broken.error) == (Status.INTERNAL_ERROR, "It ", False)
    assert broken.error in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("how", ["stop", "clear", "leave", "ask"])
def test_every_way_to_end_an_answer_closes_the_model(how: str) -> None:
    session, model = Session(), Script(StreamChunk("one "), StreamChunk("two "), DONE)
    asking = session.ask(model, "What?", DEMO)
    next(asking), next(asking)
    (turn,) = session.conversation.turns
    if how == "leave":
        asking.close()  # type: ignore[attr-defined]
    elif how == "stop":
        session.stop()
    elif how == "clear":
        session.open(ConversationState())
    else:
        next(session.ask(Script(DONE), "Another?", DEMO))
    for _ in asking:
        pass
    assert (turn.status, turn.answer, model.closed) == (Status.STOPPED, "one ", True)


def test_an_image_reaches_the_model_at_its_input_size() -> None:
    session, model = Session(), Script(DONE)
    session.offer(ConversationState(UploadedImage(load_image(SCENE).resize((56, 56)), b"", SCENE)))
    finish(session, model)
    assert (model.inputs[0].image.size, model.inputs[0].image.mode) == ((56, 56), "RGB")


def test_the_memory_of_all_sessions_is_limited() -> None:
    memory_limiter = MemoryLimiter(max_memory=250_000)
    sessions = [
        Session(conversation=ConversationState(None, [TurnState("?", "a" * 100_000, Status.DONE)])) for _ in range(3)
    ]
    for session in sessions[:2]:
        memory_limiter.update(session)
    memory_limiter.update(sessions[0])
    memory_limiter.update(sessions[2])
    assert [session.was_dropped for session in sessions] == [False, True, False]
    assert sessions[1].conversation.turns == []
    assert memory_limiter.memory < 250_000


def test_the_memory_of_a_deleted_session_is_not_counted() -> None:
    memory_limiter = MemoryLimiter()
    session = Session(conversation=ConversationState(None, [TurnState("?", "a" * 1000, Status.DONE)]))
    memory_limiter.update(session)
    assert memory_limiter.memory > 1000
    del session
    gc.collect()
    assert memory_limiter.memory == 0


def test_a_conversation_that_was_dropped_stops() -> None:
    session, model = Session(), Script(StreamChunk("one "), StreamChunk("two "), DONE)
    asking = session.ask(model, "What?", DEMO)
    next(asking), next(asking)
    session.drop()
    for _ in asking:
        pass
    assert (model.closed, session.was_dropped, session.conversation.turns) == (True, True, [])


def test_a_conversation_is_replaced_only_after_consent() -> None:
    session = Session()
    assert session.offer(ConversationState())
    kept = session.conversation
    finish(session, Script(DONE))
    other = ConversationState()
    assert not session.offer(other)
    assert session.conversation is kept
    session.open(session.offered or kept)
    assert (session.conversation is other, session.offered) == (True, None)


@pytest.mark.parametrize(("index", "question", "left"), [(0, "q0", 0), (2, "q2", 2), (3, "", 3), (-1, "", 3)])
def test_remove_from_removes_a_turn_and_all_later_ones(index: int, question: str, left: int) -> None:
    session = Session(conversation=ConversationState(None, [TurnState(f"q{n}", "a", Status.DONE) for n in range(3)]))
    assert (session.remove_from(index), len(session.conversation.turns)) == (question, left)


def test_each_visitor_gets_a_copy() -> None:
    first = Session()
    second = copy.deepcopy(first)
    finish(first, Script(DONE))
    assert second.conversation.turns == []


def test_fast_chunks_are_shown_together() -> None:
    assert len(list(throttle(3600, (None for _ in range(100))))) == 1
    assert len(list(throttle(0, (None for _ in range(100))))) == 100


@pytest.mark.parametrize(
    ("question", "language"),
    [("图里有什么？", CHINESE), ("What is this?", ENGLISH), ("1+1=?", CHINESE), ("这是 cat 吗", CHINESE)],
)
def test_a_question_is_asked_in_its_own_language(question: str, language: object) -> None:
    assert question_language(question, CHINESE) is language
    assert question_language("1+1=?", ENGLISH) is ENGLISH

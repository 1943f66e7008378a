"""The channel between clients and replicas: complete answers, cancellation, lost replicas. It needs no Ray."""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from model import BusyError, Conversation, Explanation, GenerationConfig, StreamChunk
from tests.helpers.api_server import wait_until
from visualglm.scale.channel import Channel, ChannelAnswer
from visualglm.scale.outbox import BUNDLE_INTERVAL_S
from visualglm.scale.replica import ModelReplica, ModelSettings
from visualglm.scale.wire import pack_answer, pack_question, unpack_chunks, unpack_explanation

PATIENCE_S = 30
IMAGE = Image.new("RGB", (4, 4))


class EchoAnswer(Iterator[StreamChunk]):
    """Repeats a question word by word; a word "wait" waits until the answer is closed or released."""

    def __init__(self, question: str, released: threading.Event) -> None:
        words = [StreamChunk(f"{word} ") for word in question.split()]
        self.chunks = iter([*words, StreamChunk("", "stop")])
        self.released = released
        self.closed = threading.Event()

    def __next__(self) -> StreamChunk:
        chunk = next(self.chunks)
        while chunk.text == "wait " and not self.closed.is_set() and not self.released.wait(0.01):
            pass
        if self.closed.is_set():
            raise StopIteration
        return chunk

    def close(self) -> None:
        self.closed.set()


@dataclass
class EchoModel:
    """A ChatModel whose answers are their questions, and whose explanations wait; also the settings of its replica.

    Attributes:
        answers: the answers by their questions.
        intervals: minimum intervals between the chunks of the answers.
        explained: the answers whose explanations have begun.
        released: ends the waiting of all answers.
    """

    max_batch_size: int = 8
    max_queue_size: int = 8
    answers: dict[str, EchoAnswer] = field(default_factory=dict)
    intervals: list[float] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def load(self) -> "EchoModel":
        return self

    def warm_up(self) -> None:
        pass

    def stream_answer(
        self, conversation: Conversation, question: str, config: object, *, min_interval_s: float
    ) -> EchoAnswer:
        self.intervals.append(min_interval_s)
        self.answers[question] = EchoAnswer(question, self.released)
        return self.answers[question]

    def explain_answer(
        self, conversation: Conversation, question: str, answer: str, is_cancelled: object
    ) -> Explanation | None:
        self.explained.append(answer)
        self.released.wait(PATIENCE_S)
        if answer == "full":
            raise BusyError(question)
        grid = np.ones((2, 2), np.float32)
        return Explanation(answer, (), grid, grid[None], grid[0, :1], conversation.image) if answer else None


class LocalCall:
    """A call to a replica in this process, with the number of its messages."""

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self.messages = messages
        self.count = 0
        self.task: asyncio.Task[Any] | None = None
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.task = asyncio.ensure_future(cast(Any, self.messages).__anext__())
                try:
                    message = await self.task
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    raise self.error or RuntimeError("cancelled") from None
                self.count += 1
                yield message
        finally:
            await cast(Any, self.messages).aclose()

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def fail(self, error: Exception) -> None:
        """End the call as Ray ends it if the replica is lost."""
        self.error = error
        self.cancel()


class LocalReplicas:
    """One replica in this process."""

    def __init__(self, model: EchoModel) -> None:
        self.replica = ModelReplica(cast(ModelSettings, model))
        self.calls: list[LocalCall] = []

    def answer(self, client: str, number: int, question: bytes) -> LocalCall:
        self.calls.append(LocalCall(self.replica.answer(client, number, question)))
        return self.calls[-1]

    async def stop(self, client: str, number: int) -> None:
        await self.replica.stop(client, number)

    async def explain(self, answer: bytes) -> bytes:
        return await self.replica.explain(answer)


@pytest.fixture
def model() -> Iterator[EchoModel]:
    model = EchoModel()
    yield model
    model.released.set()


@pytest.fixture
def replicas(model: EchoModel) -> LocalReplicas:
    return LocalReplicas(model)


@pytest.fixture
def channel(replicas: LocalReplicas) -> Iterator[Channel]:
    channel = Channel(replicas)
    yield channel
    channel.close()


def ask(channel: Channel, question: str) -> ChannelAnswer:
    return channel.send(pack_question(Conversation(), question, GenerationConfig(), 0.0))


def next_text(answer: ChannelAnswer) -> str:
    return "".join(chunk.text for chunk in unpack_chunks(next(answer)))


def rest_of(answer: ChannelAnswer) -> str:
    return "".join(chunk.text for message in answer for chunk in unpack_chunks(message)).strip()


def running(channel: Channel, *questions: str) -> list[ChannelAnswer]:
    """Return answers whose first word has arrived; the first one's call carries their chunks."""
    answers = [ask(channel, questions[0])]
    next_text(answers[0])
    for question in questions[1:]:
        answers.append(ask(channel, question))
        next_text(answers[-1])
    assert {answer.carrier for answer in answers} == {answers[0].number}
    return answers


def test_answers_at_the_same_time_are_complete_and_share_one_stream(channel: Channel, replicas: LocalReplicas) -> None:
    questions = [f"question {number} wait " + "word " * 50 for number in range(8)]
    answers = running(channel, *questions)
    replicas.replica.model.released.set()  # type: ignore[attr-defined]
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(rest_of, answers))
    assert texts == [question.split(maxsplit=1)[1].strip() for question in questions]
    assert [call.count for call in replicas.calls[1:]] == [1] * 7
    assert not channel.answers
    assert rest_of(ask(channel, "and one more")) == "and one more"


@pytest.mark.parametrize("stopped", [0, 1])
def test_cancelling_one_answer_stops_it_alone(channel: Channel, model: EchoModel, stopped: int) -> None:
    answers = running(channel, "a wait b", "c wait d")
    texts = list(model.answers)
    answers[stopped].cancel()
    assert model.answers[texts[stopped]].closed.wait(PATIENCE_S)
    assert not model.answers[texts[1 - stopped]].closed.is_set()
    assert rest_of(answers[stopped]) == ""
    model.released.set()
    assert rest_of(answers[1 - stopped]) == texts[1 - stopped].split(maxsplit=1)[1]


def test_a_lost_replica_ends_each_of_its_answers_with_the_error(channel: Channel, replicas: LocalReplicas) -> None:
    answers = running(channel, "a wait", "b wait", "c wait")
    for call in replicas.calls:
        channel.loop.call_soon_threadsafe(call.fail, OSError("lost"))
    for answer in answers:
        with pytest.raises(OSError, match="lost"):
            rest_of(answer)
    assert not channel.answers


def test_answers_do_not_wait_for_a_stream_that_has_ended(channel: Channel, replicas: LocalReplicas) -> None:
    answers = running(channel, "a wait", "b wait")
    channel.loop.call_soon_threadsafe(replicas.calls[0].fail, OSError("lost"))
    for answer in answers:
        with pytest.raises(OSError, match="lost"):
            rest_of(answer)
    replicas.replica.model.released.set()  # type: ignore[attr-defined]
    assert rest_of(ask(channel, "a new stream")) == "a new stream"


def test_a_question_that_no_replica_takes_ends_with_the_error(channel: Channel, replicas: LocalReplicas) -> None:
    def refuse(*_: object) -> LocalCall:
        raise OSError("no replica")

    replicas.answer = refuse  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no replica"):
        rest_of(ask(channel, "hello"))


@pytest.mark.parametrize(("wanted", "used"), [(0.0, 0.0), (0.02, BUNDLE_INTERVAL_S), (1.0, 1.0)])
def test_chunks_come_at_most_as_often_as_bundles_unless_each_token_is_wanted(
    channel: Channel, model: EchoModel, wanted: float, used: float
) -> None:
    rest_of(channel.send(pack_question(Conversation(), "hello", GenerationConfig(), wanted)))
    assert model.intervals == [used]


def explain(channel: Channel, answer: str) -> concurrent.futures.Future[bytes]:
    return channel.explain(pack_answer(Conversation(IMAGE), "why?", answer))


def test_a_replica_explains_answers_or_reports_why_not(channel: Channel, model: EchoModel) -> None:
    model.released.set()
    explanation = unpack_explanation(explain(channel, "red").result(PATIENCE_S), "red", IMAGE)
    assert explanation is not None
    assert (explanation.answer, explanation.map.tolist()) == ("red", [[1, 1], [1, 1]])
    assert unpack_explanation(explain(channel, "").result(PATIENCE_S), "", IMAGE) is None
    with pytest.raises(BusyError, match="why"):
        unpack_explanation(explain(channel, "full").result(PATIENCE_S), "full", IMAGE)


def test_explanations_wait_for_each_other_and_not_for_answers(channel: Channel, model: EchoModel) -> None:
    first, dropped, last = (explain(channel, answer) for answer in ("a", "b", "c"))
    wait_until(lambda: model.explained == ["a"])
    assert rest_of(ask(channel, "an answer meanwhile")) == "an answer meanwhile"
    assert dropped.cancel()
    assert rest_of(ask(channel, "one that ends after the cancellation")) == "one that ends after the cancellation"
    model.released.set()
    concurrent.futures.wait([first, last], PATIENCE_S)
    assert model.explained == ["a", "c"]

"""Answers of replicas and their explanations: chunks, cancellation, and one retry before the first result."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from PIL import Image

from model import DEMO, BusyError, ChatModel, Conversation, Explanation, GenerationError, StreamChunk
from model.description import Description
from visualglm.explanations import Explainer, can_explain
from visualglm.scale.remote_model import RemoteAnswer, RemoteChatModel
from visualglm.scale.wire import pack_chunks, pack_error, pack_explanation, unpack_answer, unpack_question


class LostError(Exception):
    """A replica was lost."""


class FakeStream(Iterator[bytes]):
    """The response of a replica: bytes, and exceptions to raise."""

    def __init__(self, items: Iterable[bytes | Exception]) -> None:
        self.items = iter(items)
        self.cancelled = False

    def __next__(self) -> bytes:
        item = next(self.items)
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


class FakeReplicas:
    """Answers each question with the next response."""

    def __init__(self, *responses: list[bytes | Exception]) -> None:
        self.responses = [FakeStream(one) for one in responses]
        self.questions: list[bytes] = []

    def send(self, question: bytes) -> FakeStream:
        self.questions.append(question)
        return self.responses[len(self.questions) - 1]

    def answer(self) -> RemoteAnswer:
        return RemoteAnswer(self.send, b"question", (LostError,))


FIRST = pack_chunks([StreamChunk("a"), StreamChunk("b")])
LAST = pack_chunks([StreamChunk("c", "stop")])
IMAGE = Image.new("RGB", (4, 4))
GRID = np.ones((2, 2), np.float32)
EXPLANATION = pack_explanation(Explanation("red", (), GRID, GRID[None], GRID[0, :1], IMAGE))


def test_lists_of_chunks_come_out_one_by_one() -> None:
    replicas = FakeReplicas([FIRST, LAST])
    assert [chunk.text for chunk in replicas.answer()] == ["a", "b", "c"]
    assert len(replicas.questions) == 1


def test_a_replica_lost_before_the_first_chunk_is_replaced() -> None:
    replicas = FakeReplicas([LostError()], [FIRST, LAST])
    assert "".join(chunk.text for chunk in replicas.answer()) == "abc"
    assert replicas.questions == [b"question", b"question"]


def test_a_second_lost_replica_is_an_error() -> None:
    replicas = FakeReplicas([LostError()], [LostError()], [FIRST, LAST])
    with pytest.raises(GenerationError):
        list(replicas.answer())
    assert len(replicas.questions) == 2


@pytest.mark.parametrize("end", [[LostError()], []])
def test_an_answer_that_breaks_off_is_not_repeated(end: list[bytes | Exception]) -> None:
    replicas = FakeReplicas([FIRST, *end], [FIRST, LAST])
    answer = replicas.answer()
    assert [next(answer).text, next(answer).text] == ["a", "b"]
    with pytest.raises(GenerationError):
        next(answer)
    assert len(replicas.questions) == 1


def test_errors_of_the_model_are_not_retried() -> None:
    replicas = FakeReplicas([pack_error(BusyError("full"))], [FIRST, LAST])
    with pytest.raises(BusyError, match="full"):
        list(replicas.answer())
    assert len(replicas.questions) == 1


def test_closing_cancels_at_the_replica_and_ends_the_iterator() -> None:
    replicas = FakeReplicas([FIRST, LostError()])
    answer = replicas.answer()
    next(answer)
    answer.close()
    assert replicas.responses[0].cancelled
    assert [chunk.text for chunk in answer] == ["b"]


def test_a_finished_answer_is_not_cancelled() -> None:
    replicas = FakeReplicas([LAST])
    answer = replicas.answer()
    assert [chunk.text for chunk in answer] == ["c"]
    answer.close()
    assert not replicas.responses[0].cancelled


def test_an_answer_closed_while_it_is_sent_is_cancelled() -> None:
    replicas = FakeReplicas([LostError()])

    def send(question: bytes) -> FakeStream:
        answer.close()
        return replicas.send(question)

    answer = RemoteAnswer(send, b"", (LostError,))
    assert list(answer) == []
    assert replicas.responses[0].cancelled


class FakeExplanations:
    """Explains each answer with the next response; a call without one does not end.

    Attributes:
        answers: the packed answers.
        calls: what the callers wait for.
    """

    def __init__(self, *responses: bytes | Exception) -> None:
        self.responses = iter(responses)
        self.answers: list[bytes] = []
        self.calls: list[Future[bytes]] = []

    def __call__(self, answer: bytes) -> Future[bytes]:
        self.answers.append(answer)
        self.calls.append(Future())
        response = next(self.responses, None)
        if isinstance(response, Exception):
            self.calls[-1].set_exception(response)
        elif response is not None:
            self.calls[-1].set_result(response)
        return self.calls[-1]


def make_model(replicas: FakeReplicas, explain: FakeExplanations) -> RemoteChatModel:
    facts = {"image_size": 64, "description": Description("name"), "facts": None, "sampling": {"top_k": 3}}
    return RemoteChatModel(replicas.send, explain, facts, (LostError,))


def explained(explain: FakeExplanations, is_cancelled: Callable[[], bool] = lambda: False) -> Explanation | None:
    """Return the explanation of an answer, as a server gets it."""
    model: ChatModel = make_model(FakeReplicas(), explain)
    assert can_explain(model)
    return Explainer().explain(model, Conversation(IMAGE), "why?", "red", is_cancelled)


def test_an_explanation_is_that_of_a_replica() -> None:
    explain = FakeExplanations(EXPLANATION)
    found = explained(explain)
    assert found is not None
    assert (found.answer, found.map.tolist(), found.image.size) == ("red", [[1, 1], [1, 1]], IMAGE.size)
    [sent] = explain.answers
    assert unpack_answer(sent)[1:] == ("why?", "red")
    assert explained(FakeExplanations(pack_explanation(None))) is None


def test_a_replica_lost_during_an_explanation_is_replaced_once() -> None:
    explain = FakeExplanations(LostError(), EXPLANATION)
    assert explained(explain) is not None
    assert explain.answers[0] == explain.answers[1]
    with pytest.raises(GenerationError, match="Ask again"):
        explained(FakeExplanations(LostError(), LostError(), EXPLANATION))


def test_errors_of_an_explanation_are_not_retried() -> None:
    explain = FakeExplanations(pack_error(BusyError("full")), EXPLANATION)
    with pytest.raises(BusyError, match="full"):
        explained(explain)
    assert len(explain.answers) == 1


def test_a_cancelled_explanation_is_cancelled_at_the_replica() -> None:
    explain = FakeExplanations()
    assert explained(explain, is_cancelled=lambda: True) is None
    assert explain.calls[0].cancelled()


def test_the_model_sends_what_it_was_asked() -> None:
    replicas = FakeReplicas([LAST])
    model = make_model(replicas, FakeExplanations())
    list(model.stream_answer(Conversation(), "why?", DEMO, min_interval_s=0.5))
    assert unpack_question(replicas.questions[0])[1:] == ("why?", DEMO, 0.5)
    assert (model.image_size, model.description.name, model.sampling) == (64, "name", {"top_k": 3})

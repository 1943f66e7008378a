"""Questions about images have limits, and end when their call is cancelled."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from mcp import McpError, types
from mcp.shared.memory import create_connected_server_and_client_session

from model import CHINESE, DEMO, ENGLISH, BusyError, CheckpointError, ImageError, QuestionError
from model.prompt import is_chinese
from tests.helpers.api_server import SCENE_URL, SteppedModel, wait_until
from visualglm.mcp.questions import LIMITS, MAX_CALLS, MAX_QUESTION, ImageQuestions, LoadedModel
from visualglm.mcp.tool import TOOL, make_server

CONFIG = DEMO.replace(max_new_tokens=3)


@pytest.fixture
def model() -> Iterator[SteppedModel]:
    model = SteppedModel(free=True, length=3)
    yield model
    model.free = True
    model.step(10_000)


@pytest.fixture
def questions(model: SteppedModel) -> Iterator[ImageQuestions]:
    questions = ImageQuestions(LoadedModel(model, CONFIG))
    yield questions
    questions.close()


async def until(holds: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, holds)


def test_the_image_is_resized_and_the_settings_are_those_of_the_program(
    questions: ImageQuestions, model: SteppedModel
) -> None:
    assert asyncio.run(questions.answer(SCENE_URL, "有什么？")) == "a0 a1 a2"
    ((conversation, question, config),) = model.requests
    assert question == "有什么？"
    assert config == CONFIG
    assert conversation.image.size == (224, 224)
    assert conversation.turns == []


@pytest.mark.parametrize(
    ("question", "language", "expected"),
    [("有什么？", None, CHINESE), ("what?", None, ENGLISH), ("有什么？", "en", ENGLISH), ("what?", "zh", CHINESE)],
)
def test_the_prompt_is_in_the_language_given_or_in_that_of_the_question(
    question: str, language: str | None, expected: Any, questions: ImageQuestions, model: SteppedModel
) -> None:
    asyncio.run(questions.answer(SCENE_URL, question, language))
    assert model.requests[0][0].language == expected


@pytest.mark.parametrize("image", ["/etc/passwd", "examples/scene.png", "file:///etc/passwd", "", "aGVsbG8="])
def test_anything_but_a_data_url_or_an_address_is_rejected(image: str, questions: ImageQuestions) -> None:
    with pytest.raises(ImageError, match="data URL"):
        asyncio.run(questions.answer(image, "what?"))


@pytest.mark.parametrize("url", ["http://example.org/a.png", " HTTPS://example.org/a.png"])
def test_an_address_is_rejected_without_the_permission(
    url: str, questions: ImageQuestions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visualglm.image_reader.fetch_image", lambda *_: pytest.fail("it was requested"))
    with pytest.raises(ImageError, match="data URL"):
        asyncio.run(questions.answer(url, "what?"))


def test_an_allowed_address_is_requested_within_the_limits(
    model: SteppedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = []

    def fetch(url: str, limits: Any) -> bytes:
        requested.append((url, limits))
        raise ImageError("stop here")

    monkeypatch.setattr("visualglm.image_reader.fetch_image", fetch)
    questions = ImageQuestions(LoadedModel(model, CONFIG), allow_urls=True)
    with pytest.raises(ImageError, match="stop here"):
        asyncio.run(questions.answer("https://example.org/a.png", "what?"))
    assert requested == [("https://example.org/a.png", LIMITS)]
    assert LIMITS.public_only


def test_an_allowed_address_must_still_be_public(model: SteppedModel) -> None:
    questions = ImageQuestions(LoadedModel(model, CONFIG), allow_urls=True)
    with pytest.raises(ImageError, match="address"):
        asyncio.run(questions.answer("http://127.0.0.1/a.png", "what?"))


@pytest.mark.parametrize("question", ["", " \n", "x" * (MAX_QUESTION + 1)])
def test_an_empty_or_long_question_is_rejected(question: str, questions: ImageQuestions) -> None:
    with pytest.raises(QuestionError):
        asyncio.run(questions.answer(SCENE_URL, question))


def test_more_calls_than_allowed_are_rejected_and_the_others_answered(
    questions: ImageQuestions, model: SteppedModel
) -> None:
    async def ask() -> None:
        model.free = False
        calls = [asyncio.create_task(questions.answer(SCENE_URL, "what?")) for _ in range(MAX_CALLS)]
        await until(lambda: model.open == MAX_CALLS)
        with pytest.raises(BusyError):
            await questions.answer(SCENE_URL, "what?")
        model.step(3 * MAX_CALLS)
        assert set(await asyncio.gather(*calls)) == {"a0 a1 a2"}
        model.step(3)
        assert await questions.answer(SCENE_URL, "what?") == "a0 a1 a2"

    asyncio.run(ask())


def test_a_call_that_the_client_cancels_ends_the_answer(questions: ImageQuestions, model: SteppedModel) -> None:
    model.free, model.length = False, 1000

    async def ask() -> None:
        async with create_connected_server_and_client_session(make_server(questions)) as session:
            parameters = types.CancelledNotificationParams(requestId=session._request_id)
            call = asyncio.create_task(session.call_tool(TOOL, {"image": SCENE_URL, "question": "what?"}))
            await until(lambda: model.open == 1)
            await session.send_notification(types.ClientNotification(types.CancelledNotification(params=parameters)))
            with pytest.raises(McpError, match="cancelled"):
                await call
            await until(lambda: questions.calls == 0)
        model.step()  # a generator ends at its next step
        await until(lambda: model.open == 0)

    asyncio.run(ask())
    assert model.steps <= 2


def test_calls_wait_for_the_model_and_get_the_error_of_a_model_that_cannot_be_loaded() -> None:
    promise: Future[LoadedModel] = Future()
    promise.set_running_or_notify_cancel()
    questions = ImageQuestions(promise)

    async def ask() -> None:
        first, second = (asyncio.create_task(questions.answer(SCENE_URL, "what?")) for _ in range(2))
        await until(lambda: questions.calls == 2)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        threading.Thread(target=promise.set_exception, args=[CheckpointError("no such model")]).start()
        with pytest.raises(CheckpointError, match="no such model"):
            await second

    asyncio.run(ask())


def test_a_bug_is_logged_and_its_details_are_kept_from_the_client(
    questions: ImageQuestions, model: SteppedModel, caplog: pytest.LogCaptureFixture
) -> None:
    model.error = RuntimeError("secret detail")

    async def ask() -> types.CallToolResult:
        async with create_connected_server_and_client_session(make_server(questions)) as session:
            return await session.call_tool(TOOL, {"image": SCENE_URL, "question": "what?"})

    result = asyncio.run(ask())
    assert result.isError
    assert "secret detail" not in str(result.content)
    assert "secret detail" in caplog.text


def test_an_unknown_tool_is_an_error(questions: ImageQuestions) -> None:
    async def call() -> types.CallToolResult:
        async with create_connected_server_and_client_session(make_server(questions)) as session:
            return await session.call_tool("read_file", {})

    assert asyncio.run(call()).isError


@pytest.mark.parametrize(
    ("arguments", "chinese"),
    [
        ({"image": "car.png", "question": "有什么？"}, True),
        ({"image": "https://example.org/a.png", "question": "有什么？"}, True),
        ({"image": "data:image/png;base64,AAAA", "question": "有什么？"}, True),
        ({"image": SCENE_URL, "question": "长" * (MAX_QUESTION + 1)}, True),
        ({"image": SCENE_URL, "question": " ", "language": "zh"}, True),
        ({"image": SCENE_URL, "question": "break", "language": "zh"}, True),
        ({"image": "car.png", "question": "有什么？", "language": "en"}, False),
        ({"image": "car.png", "question": "what?"}, False),
    ],
)
def test_errors_are_in_the_language_of_the_call(
    arguments: dict[str, str], chinese: bool, questions: ImageQuestions, model: SteppedModel
) -> None:
    if arguments["question"] == "break":
        model.error = RuntimeError("a bug")

    async def call() -> types.CallToolResult:
        async with create_connected_server_and_client_session(make_server(questions)) as session:
            return await session.call_tool(TOOL, arguments)

    result = asyncio.run(call())
    assert result.isError
    (content,) = result.content
    assert is_chinese(content.text) is chinese
    assert bool(re.search("[a-z]{3,} [a-z]{3,} [a-z]{3,}", content.text)) is not chinese

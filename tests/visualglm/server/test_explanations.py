"""Explanations of answers on both protocols: their content, errors, limits and cancellation."""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from model import HfChatModel, SatChatModel, load_hf
from model.explain import Explanation
from tests.helpers.api_server import SCENE_BASE64, SCENE_URL, SteppedModel, completion, events, serving, wait_until
from visualglm import explanations
from visualglm.server import service

PATH = "/v1/chat/completions"
ASKED, ANSWER = "What colour is the star?", "The star is red."
STAR, NEAR = (0.20, 0.78), 0.14
NATIVE = {"text": ASKED, "image": SCENE_BASE64, "temperature": 0, "explain": True}


@pytest.fixture(scope="module")
def client(tiny_model: SatChatModel) -> Iterator[httpx.Client]:
    with serving(tiny_model, allow_explain=True) as client:
        yield client


def ask(client: httpx.Client, **more: Any) -> dict[str, Any]:
    response = client.post(PATH, json=completion(ASKED, image=SCENE_URL, **more))
    assert response.status_code == 200, response.text
    return response.json()


def check_star(explanation: dict[str, Any]) -> None:
    """Check that an explanation lies on the star, and that its numbers are short."""
    assert math.dist(explanation["peak"], STAR) < NEAR
    assert [len(row) for row in explanation["map"]] == [16] * 16
    assert max(map(max, explanation["map"])) == 1
    assert all(round(value, 3) == value for row in explanation["map"] for value in row)
    assert "".join(token["token"] for token in explanation["tokens"]).strip() == ANSWER
    assert math.isclose(sum(token["reliance"] for token in explanation["tokens"]), explanation["reliance"], abs_tol=0.1)
    assert {token["token"] for token in explanation["tokens"] if token["reliance"] > 1} == {" The", " red"}


def test_the_map_lies_on_the_thing_asked_about_on_both_protocols(client: httpx.Client) -> None:
    native = client.post("/", json=NATIVE).json()
    assert native["response"] == ANSWER
    check_star(native["explanation"])
    (choice,) = ask(client, explain=True)["choices"]
    assert choice["explanation"] == native["explanation"]
    assert all("map" not in token for token in native["explanation"]["tokens"])


def test_streams_end_with_the_explanation(client: httpx.Client) -> None:
    *grown, last = events(client.post("/", json={**NATIVE, "stream": True}))
    assert "".join(event["delta"] for event in grown) == last["response"] == ANSWER
    check_star(last["explanation"])
    body = completion(ASKED, image=SCENE_URL, stream=True, explain=True, stream_options={"include_usage": True})
    *chunks, _usage = events(client.post(PATH, json=body))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == ANSWER
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert ["explanation" in choice for choice in choices] == [False] * (len(choices) - 1) + [True]
    assert choices[-1]["explanation"] == last["explanation"]


def test_each_token_has_a_map_if_the_request_asks_for_them(client: httpx.Client) -> None:
    explanation = client.post("/", json={**NATIVE, "explain": "tokens"}).json()["explanation"]
    [red] = [token for token in explanation["tokens"] if token["token"] == " red"]
    row, column = np.unravel_index(np.argmax(red["map"]), (16, 16))
    assert math.dist(((column + 0.5) / 16, (row + 0.5) / 16), STAR) < NEAR


def test_the_text_before_a_stop_string_is_explained(client: httpx.Client) -> None:
    (choice,) = ask(client, explain=True, stop=[" red"])["choices"]
    assert choice["message"]["content"] == "The star is"
    assert "".join(token["token"] for token in choice["explanation"]["tokens"]).strip() == "The star is"


def test_an_answer_that_no_part_decides_has_no_peak(client: httpx.Client) -> None:
    explanation = client.post("/", json={**NATIVE, "text": "Is there a fish?"}).json()["explanation"]
    assert explanation["peak"] is None
    assert not np.any(explanation["map"])


def test_an_empty_or_long_answer_has_no_explanation(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    (choice,) = ask(client, explain=True, stop=["The"])["choices"]
    assert choice["explanation"] is None
    monkeypatch.setattr(explanations, "MAX_TOKENS", 2)
    answer = client.post("/", json=NATIVE).json()
    assert answer["response"] == ANSWER
    assert answer["explanation"] is None


def test_without_a_request_there_is_no_explanation(client: httpx.Client) -> None:
    assert "explanation" not in client.post("/", json={**NATIVE, "explain": False}).json()
    assert "explanation" not in ask(client, explain=None)["choices"][0]


@pytest.mark.parametrize(
    ("more", "word"), [({"image": None}, "image"), ({"n": 2}, "single"), ({"explain": "pixels"}, "explain")]
)
def test_what_cannot_be_explained_is_400(client: httpx.Client, more: dict[str, Any], word: str) -> None:
    body = {"image": SCENE_URL, "explain": True, **more}
    response = client.post(PATH, json=completion(ASKED, **body))
    assert response.status_code == 400
    assert word in response.json()["error"]["message"]
    assert response.json()["error"]["param"].startswith("explain")


def test_without_permission_a_request_for_it_is_400(tiny_server: httpx.Client) -> None:
    native = tiny_server.post("/", json=NATIVE)
    assert native.status_code == 400
    assert "--allow-explain" in native.json()["error"]
    for streamed in (True, False):
        body = completion(ASKED, image=SCENE_URL, explain=True, stream=streamed)
        response = tiny_server.post(PATH, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "explain"
    assert tiny_server.post("/", json={**NATIVE, "explain": False}).status_code == 200


def test_a_model_that_cannot_explain_is_refused() -> None:
    with serving(SteppedModel(free=True), allow_explain=True) as client:
        response = client.post("/", json=NATIVE)
        assert response.status_code == 400
        assert "cannot explain" in response.json()["error"]


@pytest.mark.slow
def test_the_hugging_face_model_gives_the_same_explanation(client: httpx.Client) -> None:
    model: HfChatModel = load_hf("visualglm-tiny", device="cpu", dtype="float32")
    with serving(model, allow_explain=True) as other:
        found = other.post("/", json=NATIVE).json()["explanation"]
    expected = client.post("/", json=NATIVE).json()["explanation"]
    np.testing.assert_allclose(found["map"], expected["map"], atol=2e-3)
    assert found["peak"] == expected["peak"]


class SlowExplanations:
    """Replaces the computation of explanations; each waits until the test allows it.

    Attributes:
        may_end: released once for each explanation that may end.
        running, most: number of explanations at the moment, and its maximum.
        started: number of explanations that have started.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_end = threading.Semaphore(0)
        self.running = self.most = self.started = 0
        monkeypatch.setattr(explanations, "explain_answer", self.explain)
        monkeypatch.setattr(explanations, "NetworkChatModel", SteppedModel)
        monkeypatch.setattr(SteppedModel, "tokenizer", SimpleNamespace(encode_text=list), raising=False)

    def explain(self, model: Any, conversation: Any, question: str, answer: str) -> Explanation:
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.may_end.acquire()
        self.running -= 1
        grid = np.zeros((16, 16), np.float32)
        return Explanation(answer, (), grid, grid[None][:0], grid[0, :0], conversation.image)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowExplanations:
    return SlowExplanations(monkeypatch)


def test_explanations_run_one_at_a_time_and_count_as_answers(slow: SlowExplanations) -> None:
    model = SteppedModel(free=True, length=2)
    settings = {"allow_explain": True, "max_batch": 1, "max_queue": 1}
    with serving(model, **settings) as client, ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(client.post, "/", json=NATIVE) for _ in range(2)]
        wait_until(lambda: client.service.limiter.running == 2 and model.open == 0 and slow.started == 1)
        assert client.post("/", json=NATIVE).status_code == 429
        assert client.get("/health").status_code == 200  # the event loop is free
        slow.may_end.release(2)
        assert [future.result().status_code for future in futures] == [200, 200]
        assert slow.most == 1
        wait_until(lambda: client.service.limiter.running == 0)
        assert "visualglm_explanation_seconds_count 2.0" in client.get("/metrics").text


def test_the_text_is_streamed_before_the_explanation(slow: SlowExplanations) -> None:
    body = {**NATIVE, "stream": True}
    with (
        serving(SteppedModel(free=True, length=2), allow_explain=True) as client,
        client.stream("POST", "/", json=body) as response,
    ):
        lines = response.iter_lines()
        text = ""
        while "a0 a1" not in text:
            text += next(lines).removeprefix('data: {"delta":"').removesuffix('"}')
        slow.may_end.release()
        assert '"explanation":' in [line for line in lines if line][-1]


def test_an_explanation_that_still_waits_is_cancelled_with_its_client(slow: SlowExplanations) -> None:
    with serving(SteppedModel(free=True, length=2), allow_explain=True) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/", json=NATIVE)
        wait_until(lambda: slow.started == 1)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/", json=NATIVE, timeout=0.2)
        wait_until(lambda: client.service.limiter.running == 1)
        slow.may_end.release(2)
        assert first.result().status_code == 200
        assert slow.started == 1


def test_an_explanation_asks_the_model_of_its_answer(slow: SlowExplanations) -> None:
    model = SteppedModel(length=1)
    with serving(model, allow_explain=True) as client, ThreadPoolExecutor(1) as pool:
        response = pool.submit(client.post, "/", json=NATIVE)
        wait_until(lambda: model.open == 1)
        client.service.model = None  # as with replicas, when none of them is running
        model.step()
        slow.may_end.release()
        assert response.result().status_code == 200


def test_an_error_of_the_explanation_is_the_response(slow: SlowExplanations, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Explanation:
        raise MemoryError

    monkeypatch.setattr(explanations, "explain_answer", fail)
    with serving(SteppedModel(free=True, length=2), allow_explain=True) as client:
        assert client.post("/", json=NATIVE).status_code == 503
        last = events(client.post(PATH, json=completion(ASKED, image=SCENE_URL, stream=True, explain=True)))[-1]
        assert last["error"]["code"] == "overloaded"
        wait_until(lambda: client.service.limiter.running == 0)
    assert service.can_explain(None) is False

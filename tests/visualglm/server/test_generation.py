"""Answers are generated concurrently, are cancelled when the client disconnects, and release their permits."""

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from model import GenerationError
from model.description import Description
from tests.helpers.api_server import SteppedModel, completion, events, serving, wait_until
from visualglm.server.replies import ClientDisconnected, EventStreamResponse

PATH = "/v1/chat/completions"
NATIVE = {"text": "hello"}


def test_a_chunk_is_sent_immediately():
    model = SteppedModel()
    with serving(model) as client:
        model.step()
        with client.stream("POST", PATH, json=completion("hello", stream=True)) as response:
            lines = (json.loads(line[6:]) for line in response.iter_lines() if line)
            texts = (text for line in lines if (text := line["choices"][0]["delta"].get("content")))
            for number in range(5):
                assert next(texts) == f"a{number} "  # before the model may continue
                model.step()


def test_chunks_within_20_ms_share_an_event():
    model = SteppedModel(free=True, length=3000)
    with serving(model) as client:
        response = client.post(PATH, json=completion("hello", stream=True))
    texts = [event["choices"][0]["delta"].get("content") for event in events(response)]
    assert "".join(filter(None, texts)) == " ".join(f"a{number}" for number in range(3000))
    seconds = response.elapsed.total_seconds()
    assert len(list(filter(None, texts))) <= 2 + seconds / 0.02


def test_one_request_does_not_wait_for_another():
    model = SteppedModel()
    with serving(model) as client, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(client.post, "/", json={**NATIVE, "max_new_tokens": 2}) for _ in range(8)]
        wait_until(lambda: model.open == 8)
        assert client.get("/health").status_code == 200
        model.step(16)
        assert {future.result().json()["response"] for future in futures} == {"a0 a1"}


class Queued:
    """An answer that stays in the queue until a thread closes it."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        self.closed.wait()
        raise StopIteration

    def close(self) -> None:
        self.closed.set()


class QueueingModel:
    """A model whose answers all stay in the queue."""

    def __init__(self) -> None:
        self.answers: list[Queued] = []

    image_size = 224
    description = Description("scripted")

    def stream_answer(self, *_, **__):
        self.answers.append(Queued())
        return self.answers[-1]


@contextmanager
def asking(client, **body):
    """Context manager: send a request on a raw connection, which is closed at the end of the block."""
    data = json.dumps(completion("hello", **body)).encode()
    with socket.create_connection(("127.0.0.1", client.port)) as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        yield sock


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stop": ["x"]}, {"n": 2}])
def test_disconnecting_cancels_a_queued_answer(more):
    model = QueueingModel()
    with serving(model) as client:
        with asking(client, **more):
            wait_until(lambda: len(model.answers) == more.get("n", 1))
        wait_until(lambda: client.service.limiter.running == 0)
        assert all(answer.closed.is_set() for answer in model.answers)


def test_the_deadline_cancels_a_queued_answer():
    with serving(QueueingModel(), request_timeout=0.2) as client:
        assert client.post(PATH, json=completion("hello")).status_code == 408
        wait_until(lambda: client.service.limiter.running == 0)


@pytest.mark.parametrize("streamed", [True, False])
def test_disconnecting_ends_the_answer_at_its_next_step(streamed):
    model = SteppedModel()
    with serving(model) as client:
        with asking(client, stream=streamed):
            model.step(3)
            wait_until(lambda: [a.usages[0].answer_tokens for a in set(client.service.active) if a.usages[0]] == [3])
        wait_until(lambda: not client.service.active)
        model.step(1)
        wait_until(lambda: model.open == 0 and client.service.limiter.running == 0)
        assert model.steps == 4
        metrics = client.get("/metrics").text
        assert 'visualglm_tokens_total{kind="answer"} 3.0' in metrics
        assert f'visualglm_requests_total{{path="{PATH}",status="499"}} 1.0' in metrics


def test_a_stop_string_ends_the_answer_in_the_model_too():
    model = SteppedModel(free=True)
    with serving(model) as client:
        answer = client.post(PATH, json=completion("hello", stop=["a5", "5 a6"])).json()
        assert answer["choices"][0]["message"]["content"] == "a0 a1 a2 a3 a4 "
        wait_until(lambda: client.service.limiter.running == 0)
        assert model.steps == 6 and answer["usage"]["completion_tokens"] == 6


def test_a_full_queue_is_429_with_the_time_to_try_again():
    model = SteppedModel()
    with serving(model, max_batch=1, max_queue=1) as client, ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(client.post, "/", json={**NATIVE, "max_new_tokens": 1}) for _ in range(2)]
        wait_until(lambda: model.open == 2)
        assert client.get("/ready").status_code == 503
        for response in (client.post("/", json=NATIVE), client.post(PATH, json=completion("hello"))):
            assert response.status_code == 429 and 1 <= int(response.headers["Retry-After"]) <= 60
        assert response.json()["error"]["code"] == "busy"
        model.step(2)
        assert [future.result().status_code for future in futures] == [200, 200]
        wait_until(lambda: client.service.limiter.running == 0)
        assert client.get("/ready").status_code == 200


def test_a_model_that_is_busy_is_429_too():
    model = SteppedModel(free=True)
    model.busy_at = 0
    with serving(model) as client:
        for body in (completion("hello"), completion("hello", stream=True)):
            response = client.post(PATH, json=body)
            assert response.status_code == 429 and response.headers["Retry-After"] == "1"
        wait_until(lambda: client.service.limiter.running == 0)


def test_each_of_several_answers_needs_a_permit():
    model = SteppedModel(free=True, length=2)
    with serving(model, max_batch=1, max_queue=2) as client:
        assert client.post(PATH, json=completion("hello", n=3)).status_code == 200
        wait_until(lambda: client.service.limiter.running == 0)
        assert client.post(PATH, json=completion("hello", n=4)).status_code == 429
        assert client.post(PATH, json=completion("hello", n=5)).status_code == 400


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_takes_too_long_is_408(streamed):
    model = SteppedModel()
    with serving(model, request_timeout=0.2) as client:
        response = client.post(PATH, json=completion("hello", stream=streamed))
        assert response.status_code == 408 and response.headers["X-Should-Retry"] == "false"
        model.step()
        wait_until(lambda: client.service.limiter.running == 0)
        if streamed:
            model.step()
            last = events(client.post(PATH, json=completion("hello", stream=True)))[-1]
            assert last["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("error", "message"), [(RuntimeError("secret"), "Internal server error"), (GenerationError("NaN"), "NaN")]
)
def test_an_error_of_the_model_is_500_with_an_id_and_the_server_lives_on(error, message, caplog):
    model = SteppedModel(free=True)
    with serving(model) as client:
        model.error = error
        for path, body in (("/", NATIVE), ("/", {**NATIVE, "stream": True}), (PATH, completion("hello"))):
            response = client.post(path, json=body)
            assert response.status_code == 500 and message in response.text and "secret" not in response.text
            assert response.headers["X-Request-Id"] in {
                record.details["id"] for record in caplog.records if record.exc_info
            }
        model.error = None
        assert client.post("/", json={**NATIVE, "max_new_tokens": 2}).json()["response"] == "a0 a1"


def test_a_client_that_does_not_read_delays_no_other():
    model = SteppedModel(free=True, length=200_000)
    with serving(model, request_timeout=1.0) as client, socket.create_connection(("127.0.0.1", client.port)) as sock:
        body = json.dumps({**NATIVE, "stream": True}).encode()
        sock.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: model.open == 1)
        assert client.post("/", json={**NATIVE, "max_new_tokens": 1}).status_code == 200
        wait_until(lambda: not client.service.active and client.service.limiter.running == 0)


def test_answers_of_many_threads_stay_apart():
    model = SteppedModel(free=True, length=50)
    results: dict[int, str] = {}
    with serving(model) as client:

        def ask(length: int) -> None:
            body = completion("hello", stream=True, max_tokens=length)
            results[length] = "".join(
                event["choices"][0]["delta"].get("content") or "" for event in events(client.post(PATH, json=body))
            )

        threads = [threading.Thread(target=ask, args=(length,)) for length in range(1, 41)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {length: " ".join(f"a{i}" for i in range(length)) for length in range(1, 41)}


def test_a_stream_is_closed_if_the_client_disconnects_before_its_first_event():
    ended = []

    async def run() -> None:
        async def lines():
            yield b"data: 1\n\n"

        async def receive():
            return {"type": "http.disconnect"}

        async def send(_):
            await asyncio.Event().wait()

        stream = EventStreamResponse(lines(), 60, lambda: ended.append(True))
        with pytest.raises(ClientDisconnected):
            await stream({"type": "http"}, receive, send)

    asyncio.run(run())
    assert ended == [True]

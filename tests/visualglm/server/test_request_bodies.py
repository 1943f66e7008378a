"""The cost of a body is limited before parsing, and bodies are freed before their answers are generated."""

import asyncio
import json
import socket
import tracemalloc

import pytest
from pydantic import ValidationError

from tests.helpers.api_server import SCENE_BASE64, SCENE_URL, SteppedModel, completion, serving, wait_until
from tests.helpers.bad_requests import to_base64
from tests.helpers.image_files import slow_to_decode
from visualglm.body_budget import UNCOUNTED_BODY_BYTES, BodyBudget, BodyReservation
from visualglm.server.api_errors import ApiError
from visualglm.server.messages import MAX_PARTS, read_content
from visualglm.server.parsing import BodyParser
from visualglm.server.schemas import CompletionRequest, NativeRequest

PATHS = ("/", "/v1/chat/completions")


@pytest.fixture
def parser():
    return BodyParser(max_tokens=1000, max_text=1000)


@pytest.mark.parametrize("body", [b"0," * 1001, b"[]," * 501, b'{"":' * 501, b'"a":' * 1001])
def test_many_values_are_rejected_before_they_are_built(parser, body, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(json, "loads", fail)
    with pytest.raises(ApiError, match="commas") as caught:
        parser.check_complexity(body)
    assert caught.value.code == "json_too_complex"


@pytest.mark.parametrize("body", ["图" * 1400, '\\"' * 1100, "\\u0041" * 1300, "😀" * 1001])
def test_too_much_text_is_rejected_before_it_is_parsed(parser, body):
    with pytest.raises(ApiError) as caught:
        parser.check_complexity(body.encode())
    assert caught.value.code == "text_too_long"


@pytest.mark.parametrize(
    "body", ["图" * 1000, "a" * 100_000, "\\/".join(["A" * 62] * 2000), "\\r\\n".join(["A" * 76] * 2000)]
)
def test_a_body_of_an_allowed_image_or_question_is_accepted(parser, body):
    parser.check_complexity(body.encode())


def test_the_first_error_ends_the_validation_of_a_list():
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({"model": "m", "messages": [0] * 900})
    assert caught.value.error_count() == 1


def test_content_of_many_parts_is_rejected_before_any_is_read():
    with pytest.raises(ApiError, match="101 parts") as caught:
        read_content([0] * (MAX_PARTS + 1), "messages.0.content")
    assert caught.value.param == "messages.0.content"


@pytest.mark.parametrize("path", PATHS)
def test_a_costly_body_is_rejected_by_both_routes(path):
    with serving(SteppedModel(free=True)) as client:
        for values in (b"0," * 60_000, b"[]," * 60_000):
            response = client.post(path, content=b'{"text": "a", "history": [' + values + b"0]}")
            assert response.status_code == 400
            assert "commas" in response.text


def test_a_budget_counts_large_bodies_only():
    budget = BodyBudget(1000)
    first, second = BodyReservation(budget), BodyReservation(budget)
    assert first.resize(UNCOUNTED_BODY_BYTES) and budget.used == 0
    assert first.resize(UNCOUNTED_BODY_BYTES + 600) and second.resize(UNCOUNTED_BODY_BYTES + 400)
    assert not second.resize(UNCOUNTED_BODY_BYTES + 401)
    first.release()
    first.release()
    assert budget.used == 400
    second.release()
    assert budget.used == 0


def test_large_bodies_share_a_budget_and_small_ones_are_not_counted():
    with serving(SteppedModel(free=True), max_bodies=1_000_000) as client:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as slow:
            slow.sendall(head + b" " * 1_100_000)
            wait_until(lambda: client.service.body_budget.used > 700_000)
            large = client.post("/", content=json.dumps({"text": "a", "image": "A" * 900_000}))
            assert large.status_code == 503 and "Retry-After" in large.headers
            assert client.post("/", json={"text": "a", "image": SCENE_BASE64}).status_code == 200
        wait_until(lambda: client.service.body_budget.used == 0)


def requests_about(image: str) -> list[tuple[str, dict]]:
    url = f"data:;base64,{image}" if not image.startswith("data:") else image
    return [("/", {"text": "a", "image": image}), ("/v1/chat/completions", completion("a", image=url))]


def post(client, path: str, content: bytes) -> socket.socket:
    """Send a request; return the connection, from which the response can be read."""
    sock = socket.create_connection(("127.0.0.1", client.port), timeout=20)
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(content)))
    sock.sendall(content)
    return sock


@pytest.mark.parametrize("number", [0, 1], ids=PATHS)
def test_body_and_image_text_are_freed_before_the_answer_is_generated(number):
    model = SteppedModel()
    path, body = requests_about(SCENE_BASE64 + " " * 8_000_000)[number]
    content = json.dumps(body).encode()
    with serving(model) as client:
        client.service.images.decoder.warm_up()
        tracemalloc.start()
        try:
            with post(client, path, content):
                wait_until(lambda: model.requests)
                wait_until(lambda: client.service.body_budget.used == 0)
                assert tracemalloc.get_traced_memory()[0] < 2_000_000
        finally:
            tracemalloc.stop()
        assert model.requests[0][0].image.size == (model.image_size, model.image_size)


@pytest.mark.parametrize("number", [0, 1], ids=PATHS)
def test_a_client_that_disconnects_ends_the_decoding_of_its_image(number):
    path, body = requests_about(to_base64(slow_to_decode()))[number]
    content = json.dumps(body).encode()
    with serving(SteppedModel(free=True), max_pixels=100_000_000) as client:
        images = client.service.images
        with post(client, path, content):
            wait_until(lambda: images.decoder.large.used)
        wait_until(lambda: not images.active and not images.decoder.large.used)
        assert client.service.limiter.running == 0
        assert client.post("/", json={"text": "a", "image": SCENE_URL}).status_code == 200


@pytest.mark.parametrize("number", [0, 1], ids=PATHS)
def test_the_time_limit_of_a_request_includes_its_image(number):
    path, body = requests_about(to_base64(slow_to_decode()))[number]
    with serving(SteppedModel(free=True), max_pixels=100_000_000, request_timeout=0.3) as client:
        response = client.post(path, json=body)
        assert response.status_code == 408
        wait_until(lambda: not client.service.images.active and not client.service.images.decoder.large.used)


def test_other_requests_proceed_between_two_bodies():
    ticks: list[int] = [0]
    parsed_at: list[int] = []

    class Noting(BodyParser):
        def check_complexity(self, body: bytes) -> None:
            parsed_at.append(ticks[0])

    class Body:
        async def stream(self):
            yield b'{"text": "a"}'

    async def count() -> None:
        while True:
            ticks[0] += 1
            await asyncio.sleep(0)

    async def read_many() -> None:
        counting = asyncio.ensure_future(count())
        parser = Noting(1000, 1000)
        await asyncio.gather(*(parser.read(Body(), NativeRequest) for _ in range(9)))
        counting.cancel()

    asyncio.run(read_many())
    assert len(set(parsed_at)) == 9

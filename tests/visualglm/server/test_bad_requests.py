"""Hundreds of invalid requests: each gets an error with a message, and the server continues."""

from collections.abc import Iterator

import httpx
import pytest

from model import SatChatModel
from tests.helpers.api_server import serving
from tests.helpers.bad_requests import LIMITS, NATIVE, Bad, bad_requests

REQUESTS = list(bad_requests())


@pytest.fixture(scope="module")
def client(tiny_model: SatChatModel) -> Iterator[httpx.Client]:
    with serving(tiny_model, **LIMITS) as client:
        yield client
        assert client.service.limiter.running == 0 and not client.service.active


def test_there_are_at_least_400_different_requests():
    assert len({(bad.path, bad.content) for bad in REQUESTS}) == len(REQUESTS) >= 400


@pytest.mark.parametrize("bad", REQUESTS, ids=[bad.name for bad in REQUESTS])
def test_it_is_rejected_with_a_message(client, bad: Bad):
    response = client.post(bad.path, content=bad.content, headers={"Content-Type": "application/json"})
    assert response.status_code == bad.status, response.text[:500]
    body = response.json()
    if bad.path == NATIVE:
        assert body.keys() == {"error", "status", "time", "request_id"} and body["status"] == bad.status
        message = body["error"]
    else:
        assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
        assert body["error"]["type"] and body["error"]["code"]
        message = body["error"]["message"]
    assert 10 < len(message) < 600 and message.endswith(".") and message.isprintable()


def test_the_next_request_is_served(client):
    assert client.post("/", json={"text": "你好", "temperature": 0}).json()["response"].startswith("你好")

"""Responses of Ray Serve's own HTTP servers in the form of the protocols."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from visualglm.scale.proxy import ProxyErrorMiddleware

JSON, TEXT, EVENTS = "application/json", "text/plain", "text/event-stream; charset=utf-8"


class FakeProxy:
    """Sends a response, in Ray Serve's place; `status` None sends none, and `ends` False breaks off."""

    def __init__(self, status: int | None, kind: str, body: bytes = b"text", ends: bool = True) -> None:
        self.status, self.kind, self.body, self.ends = status, kind, body, ends
        self.headers: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.status is None:
            return
        headers = [(b"content-type", self.kind.encode()), (b"x-request-id", b"inner")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": not self.ends})


def ask(proxy: FakeProxy, path: str = "/", **headers: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(ProxyErrorMiddleware(proxy))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, headers=headers)

    return asyncio.run(request())


@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_responses_of_the_application_pass(status: int) -> None:
    response = ask(FakeProxy(status, JSON, b'{"a":1}'))
    assert (response.status_code, response.json()) == (status, {"a": 1})


@pytest.mark.parametrize(
    ("status", "expected"), [(404, 503), (408, 408), (429, 429), (503, 503), (500, 500), (None, 500)]
)
@pytest.mark.parametrize("path", ["/", "/v1/chat/completions"])
def test_errors_of_ray_serve_become_json_of_the_protocol(path: str, status: int | None, expected: int) -> None:
    response = ask(FakeProxy(status, TEXT), path)
    body: dict[str, Any] = response.json()
    assert response.status_code == expected
    assert body["status"] == expected if path == "/" else body["error"]["message"]


def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    response = ask(FakeProxy(200, EVENTS, b'data: {"delta":"a"}\n\n', ends=False), "/v1/chat/completions")
    *_, last = response.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"


def test_a_complete_stream_is_unchanged() -> None:
    assert ask(FakeProxy(200, EVENTS, b"data: 1\n\n")).text == "data: 1\n\n"


def test_clients_cannot_set_internal_headers() -> None:
    proxy = FakeProxy(200, JSON, b"{}")
    ask(proxy, **{"X-Request-Disconnect-Disabled": "?1", "X-Other": "1"})
    assert "x-request-disconnect-disabled" not in proxy.headers
    assert proxy.headers["x-other"] == "1"


def test_the_routes_of_ray_serve_are_unchanged() -> None:
    assert ask(FakeProxy(503, TEXT), "/-/healthz").text == "text"

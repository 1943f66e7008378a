"""The page's route for explanations: maps of the answer and of its tokens, with their places in the text."""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from model import DEMO, SatChatModel, ScoredToken
from tests.helpers.api_server import SCENE, SteppedModel
from visualglm import explanations
from visualglm.web.explanations import find_tokens
from visualglm.web.program import is_local, parse_arguments
from visualglm.web.routes import PageRoutes
from visualglm.web.service import PageService

ASKED, ANSWER = "What colour is the star?", "The star is red."


def post(routes: PageRoutes, path: str, body: Any) -> httpx.Response:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await routes({**scope, "user_name": None}, receive, send)

    async def request() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as client:
            content = body if isinstance(body, bytes) else json.dumps(body)
            return await client.post(path, content=content)

    return asyncio.run(request())


@pytest.fixture
def routes(tiny_model: SatChatModel) -> Iterator[PageRoutes]:
    routes = PageRoutes(PageService(tiny_model, DEMO, explain=True))
    yield routes
    routes.close()
    routes.service.images.close()


@pytest.fixture
def image(routes: PageRoutes) -> str:
    return str(post(routes, "/page/images", SCENE.read_bytes()).json()["id"])


def test_each_token_has_its_place_its_reliance_and_its_map(routes: PageRoutes, image: str) -> None:
    body = {"image": image, "question": ASKED, "answer": ANSWER, "language": "en"}
    found = post(routes, "/page/explanations", body).json()
    assert (found["rows"], found["columns"]) == (16, 16)
    tokens = {ANSWER[token["start"] : token["end"]]: token for token in found["tokens"]}
    assert list(tokens) == ["The", "star", "is", "red", "."]
    assert tokens["red"]["reliance"] > 1 > tokens["is"]["reliance"]
    assert tokens["is"]["map"] is None
    for encoded in (found["map"], tokens["red"]["map"]):
        levels = np.frombuffer(base64.b64decode(encoded), np.uint8)
        row, column = divmod(int(levels.argmax()), 16)
        assert levels.max() == 255
        assert abs(row - 12) <= 2
        assert abs(column - 3) <= 2


def test_an_answer_that_no_part_decides_has_no_map(routes: PageRoutes, image: str) -> None:
    body = {
        "image": image,
        "question": "Is there a fish?",
        "answer": "No, there is no fish in the picture.",
        "language": "en",
    }
    found = post(routes, "/page/explanations", body).json()
    assert found["map"] is None
    assert {token["map"] for token in found["tokens"]} == {None}


def test_what_cannot_be_explained_is_an_error(routes: PageRoutes, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"image": image, "question": ASKED, "answer": ANSWER}
    for change, status, code in (
        ({"image": None}, 400, "invalid_request"),
        ({"answer": " "}, 400, "invalid_request"),
        ({"image": "0" * 64}, 404, "unknown_image"),
        ({"model": 1}, 400, "invalid_request"),
    ):
        response = post(routes, "/page/explanations", body | change)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    monkeypatch.setattr(explanations, "MAX_TOKENS", 2)
    for language in ("zh", "en"):
        response = post(routes, f"/page/explanations?lang={language}", body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "not_explained")
    assert routes.slots.total == 0


def test_an_explanation_counts_as_an_answer_of_its_visitor(routes: PageRoutes, image: str) -> None:
    routes.slots.max_total = 0
    assert post(routes, "/page/explanations", {"image": image, "question": ASKED, "answer": ANSWER}).status_code == 429


@pytest.mark.parametrize("is_allowed", [True, False])
def test_without_permission_or_a_network_there_is_no_route(tiny_model: SatChatModel, is_allowed: bool) -> None:
    model: Any = SteppedModel() if is_allowed else tiny_model
    routes = PageRoutes(PageService(model, DEMO, explain=is_allowed))
    assert not routes.service.info(None)["features"]["explain"]
    assert post(routes, "/page/explanations", {"question": ASKED, "answer": ANSWER}).status_code == 404
    routes.close()
    routes.service.images.close()


@pytest.mark.parametrize(
    ("flags", "allowed", "local"),
    [
        ([], None, True),
        (["--auth", "me:secret"], None, False),
        (["--allow-host", "chat.example.org"], None, False),
        (["--server_name", "0.0.0.0"], None, False),
        (["--allow-explain"], True, True),
        (["--no-allow-explain"], False, True),
    ],
)
def test_only_a_page_for_this_machine_explains_by_default(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], allowed: bool | None, local: bool
) -> None:
    monkeypatch.setattr("sys.argv", ["web_demo.py", *flags])
    options, _ = parse_arguments(7860)
    assert options.allow_explain is allowed
    assert is_local(options) is local


def tokens_of(*parts: bytes) -> list[ScoredToken]:
    return [ScoredToken(0, part, 0.0) for part in parts]


def test_places_are_those_of_the_text_without_its_spaces() -> None:
    assert find_tokens(tokens_of(b" A", b"  b", b"c"), "A bc") == [(0, 1), (2, 3), (3, 4)]
    star = "⭐".encode()
    assert find_tokens(tokens_of(star[:1], star[1:], "红😀".encode(), b" ", b"x"), "⭐ 红😀x") == [
        (0, 0),
        (0, 1),
        (2, 5),
        (0, 0),
        (5, 6),
    ]


def test_tokens_of_another_text_have_no_places() -> None:
    assert find_tokens(tokens_of(b"abc"), "ab") == []
    assert find_tokens([], "ab") == []

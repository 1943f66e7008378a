"""The tool over streamable HTTP, behind a login or none."""

from collections.abc import Iterator

import httpx
import pytest
from mcp.types import LATEST_PROTOCOL_VERSION

from model import DEMO, SatChatModel
from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE, SCENE_URL, SteppedModel
from tests.helpers.mcp_client import http_session, served, tool_client
from visualglm.mcp.http import MAX_BODY_BYTES, McpApp, mcp_app
from visualglm.web.basic_auth import BasicAuth
from visualglm.web.login import FREE_ATTEMPTS, LoginAttempts

GREEDY = DEMO.replace(temperature=0)
LOGINS = [("ann", "secret"), ("李", "密码:二")]
HEADERS = {"Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": LATEST_PROTOCOL_VERSION,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture
def app(tiny_model: SatChatModel) -> Iterator[McpApp]:
    app = mcp_app(tiny_model, GREEDY)
    yield app
    app.close()


def post(url: str, **more: object) -> httpx.Response:
    return httpx.post(url, trust_env=False, **{"json": INITIALIZE, "headers": HEADERS, **more})


def test_a_data_url_is_answered_and_a_path_is_not(app: McpApp) -> None:
    with served(app) as url, tool_client(http_session(f"{url}/mcp")) as client:
        assert client.ask(image=SCENE_URL, question=DESCRIBE) == (False, DESCRIPTION)
        for image in (str(SCENE), "https://example.org/scene.png"):
            failed, message = client.ask(image=image, question=DESCRIBE)
            assert failed
            assert "data URL" in message
        app.close()


@pytest.mark.parametrize("login", LOGINS)
def test_the_right_login_is_answered(login: tuple[str, str], app: McpApp) -> None:
    protected = BasicAuth(app, LOGINS, LoginAttempts())
    with served(protected) as url, tool_client(http_session(f"{url}/mcp", login)) as client:
        assert client.ask(image=SCENE_URL, question=DESCRIBE) == (False, DESCRIPTION)
        app.close()


@pytest.mark.parametrize(
    "authorization", ["", "Basic", "Basic ?", "Basic YW5u", "Bearer secret", "Basic YW5uOndyb25n", "Basic /////w=="]
)
def test_a_missing_or_wrong_login_gets_401(authorization: str, app: McpApp) -> None:
    attempts = LoginAttempts()
    with served(BasicAuth(app, LOGINS, attempts)) as url:
        response = post(url, headers={**HEADERS, "Authorization": authorization})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert "mcp-session-id" not in response.headers


def test_wrong_passwords_have_to_wait_even_before_the_right_one() -> None:
    now = 0.0
    attempts = LoginAttempts(lambda: now)
    app = mcp_app(SteppedModel(), GREEDY)
    with served(BasicAuth(app, LOGINS, attempts)) as url:
        assert [post(url).status_code for _ in range(2 * FREE_ATTEMPTS)] == [401] * 2 * FREE_ATTEMPTS  # no password
        wrong = [post(url, auth=("ann", "wrong")).status_code for _ in range(FREE_ATTEMPTS)]
        assert wrong == [401] * FREE_ATTEMPTS
        waiting = post(url, auth=LOGINS[0])
        assert waiting.status_code == 429
        assert int(waiting.headers["Retry-After"]) >= 1
        now = 1000.0
        assert post(url, auth=LOGINS[0]).status_code == 200
        app.close()


def test_a_large_body_and_other_content_are_rejected(app: McpApp) -> None:
    with served(app) as url:
        large = post(url, content=b" " * (MAX_BODY_BYTES + 1), json=None, headers={**HEADERS, "Content-Type": "json"})
        assert large.status_code == 413
        assert post(url, content=b"{", json=None).status_code == 400  # what a form of another site may send
        app.close()

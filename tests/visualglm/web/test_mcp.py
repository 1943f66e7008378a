"""`visualglm web --mcp` serves the tool at /mcp and checks host, origin and login as for the page."""

from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("gradio", reason="the web page needs Gradio")
pytest.importorskip("mcp", reason="the tool needs the MCP library")

from mcp.types import LATEST_PROTOCOL_VERSION

from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE, SCENE_URL
from tests.helpers.cli_program import run_here
from tests.helpers.mcp_client import http_session, tool_client
from tests.helpers.web_program import PROGRAM, running_page
from visualglm.web.login import FREE_ATTEMPTS

LOGIN = ("me", "secret")
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
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


def initialize(url: str, login: tuple[str, str] | None = None, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}mcp", json=INITIALIZE, auth=login, headers={**HEADERS, **headers}, trust_env=False)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A page with the tool and a login."""
    log: list[str] = []
    with running_page([*PROGRAM, "--mcp", "--temperature", "0", "--auth", ":".join(LOGIN)], log=log) as address:
        yield f"{address.rstrip('/')}/"
    assert "Traceback" not in "".join(log)


def test_the_right_login_is_answered_and_paths_are_not_opened(url: str) -> None:
    with tool_client(http_session(f"{url}mcp", LOGIN)) as client:
        assert client.ask(image=SCENE_URL, question=DESCRIBE) == (False, DESCRIPTION)
        for image in (str(SCENE), "https://example.org/scene.png"):
            failed, message = client.ask(image=image, question=DESCRIBE)
            assert failed
            assert "data URL" in message


def test_other_hosts_and_origins_are_rejected_even_with_a_login(url: str) -> None:
    assert initialize(url, LOGIN).status_code == 200
    assert initialize(url, LOGIN, Host="evil.example").status_code == 403
    assert initialize(url, LOGIN, Origin="http://evil.example").status_code == 403


def test_a_missing_login_asks_for_one(url: str) -> None:
    response = initialize(url)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert response.json()["error"]["code"] == "not_logged_in"


def test_a_body_that_is_too_large_is_rejected_before_it_is_kept(url: str) -> None:
    response = httpx.post(f"{url}mcp", content=b" " * 2**25, auth=LOGIN, headers=HEADERS, trust_env=False)
    assert response.status_code == 413


def test_wrong_passwords_of_the_tool_and_of_the_login_page_count_together(url: str) -> None:
    form = {"username": LOGIN[0], "password": "wrong"}
    for _ in range(FREE_ATTEMPTS - 1):
        assert httpx.post(f"{url}login", data=form, trust_env=False).status_code == 400
    assert initialize(url, ("me", "wrong")).status_code == 401
    assert initialize(url, LOGIN).status_code == 429
    assert httpx.post(f"{url}login", data=form, trust_env=False).status_code == 429


def test_without_the_flag_there_is_no_tool() -> None:
    with running_page(PROGRAM) as address:
        assert initialize(f"{address.rstrip('/')}/").status_code == 404


def test_addresses_of_images_need_the_tool() -> None:
    done = run_here(["web_demo.py", "--from_pretrained", "visualglm-tiny", "--allow-image-urls"])
    assert done.returncode == 2
    assert "--mcp" in done.stderr

"""The web program: its command line, and its page used by gradio_client."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from model.images.preprocess import load_image
from tests.helpers.cli_program import DESCRIBED_ZH, PATIENCE, ROOT, SCENE
from tests.helpers.ports import free_port
from tests.helpers.preloaded import WEB, run_preloaded
from tests.helpers.web_program import PROGRAM, color_of, python, running_page
from tests.helpers.web_server import Server

gradio_client = pytest.importorskip("gradio_client", reason="the web page needs Gradio")
DEFAULTS = (2048, 0.4, 100, 0.8, 1.2, None)
GREEDY = (2048, 0.4, 100, 0, 1.2, None)
SCENE_COLOR = color_of(load_image(SCENE))


class Visitor:
    """A visitor that uses the page through gradio_client."""

    def __init__(self, url: str) -> None:
        self.client = gradio_client.Client(url, verbose=False, analytics_enabled=False)

    def call(self, name: str, *values: Any) -> Any:
        return self.client.predict(*values, api_name=f"/{name}")

    def ask(self, question: str, settings: tuple[Any, ...] = GREEDY) -> str:
        """Ask a question; return the answer that the page shows."""
        return chat_texts(self.call("ask", question, *settings))[-1]

    def saved(self, name: str) -> bytes:
        """Return the file that a save button creates."""
        with urllib.request.urlopen(f"{self.client.src}gradio_api/file={self.call(name)['file']}") as file:
            return file.read()

    def give(self, path: str | Path, name: str = "offer_picture") -> Any:
        return self.call(name, gradio_client.handle_file(str(path)))


def chat_texts(updates: Any) -> list[str]:
    """Return the texts of the chat in an event's updates."""
    (chat,) = (update for update in updates if isinstance(update, list))
    return [message["content"][0]["text"] for message in chat]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_page(PROGRAM) as address:
        yield address


@pytest.fixture
def visitor(url: str) -> Iterator[Visitor]:
    visitor = Visitor(url)
    with closing(visitor.client):
        yield visitor


@pytest.fixture
def other(url: str) -> Iterator[Visitor]:
    visitor = Visitor(url)
    with closing(visitor.client):
        yield visitor


def test_answers_about_an_image_and_remembers(visitor: Visitor) -> None:
    visitor.give(SCENE)
    assert visitor.ask("描述这张图片。") == DESCRIBED_ZH
    assert visitor.ask("小汽车是什么颜色？") == "小汽车是紫色的。"
    assert visitor.ask("seen", DEFAULTS) == (
        f"turns [描述这张图片。 小汽车是什么颜色？] image {SCENE_COLOR} en temperature 0.8"
    )


def test_visitors_have_conversations_of_their_own(visitor: Visitor, other: Visitor) -> None:
    visitor.give(SCENE)
    visitor.ask("有没有小汽车？")
    assert other.ask("seen").startswith("turns [] image None")
    assert visitor.ask("seen").startswith(f"turns [有没有小汽车？] image {SCENE_COLOR}")


def test_failed_answers_are_shown_and_not_remembered(visitor: Visitor) -> None:
    busy, broken, cut = (visitor.ask(question) for question in ("busy", "break", "cut"))
    assert "Too many people ask at the moment. Try again soon." in busy
    assert broken.startswith("It begins \n\n⚠ ")
    assert "inside of the program" not in broken
    assert "max_length" in cut
    assert visitor.ask("seen").startswith("turns [cut] ")


def test_a_stop_reaches_the_model(visitor: Visitor, other: Visitor) -> None:
    before = other.ask("closed")
    job = visitor.client.submit("slow", *GREEDY, api_name="/ask")
    wait_until(lambda: any("number3" in chat_texts(updates)[-1] for updates in job.outputs()))
    stopped = chat_texts(visitor.call("stop"))[-1]
    assert "number3" in stopped
    assert "■" in stopped
    assert chat_texts(job.result(timeout=PATIENCE))[-1].startswith("number0 ")
    assert other.ask("closed") != before
    assert visitor.ask("seen").startswith("turns [] ")


def wait_until(done: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def join(url: str, name: str, data: list[Any]) -> HTTPConnection:
    """Call an event as a browser does; return the connection whose answer is the stream of what happens."""
    session = {"session_hash": f"test{time.monotonic_ns()}"}
    with urllib.request.urlopen(f"{url}config") as config:
        numbers = {item["api_name"]: item["id"] for item in json.load(config)["dependencies"]}
    body = json.dumps({"data": data, "fn_index": numbers[name], **session}).encode()
    request = urllib.request.Request(f"{url}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()
    connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    connection.request("GET", f"/gradio_api/queue/data?session_hash={session['session_hash']}")
    return connection


def test_disconnecting_stops_the_answer(url: str, other: Visitor) -> None:
    before = other.ask("closed")
    with closing(join(url, "ask", [None, "slow", *GREEDY])) as connection:
        stream = connection.getresponse()
        while b"number3" not in stream.readline():
            pass
        stream.close()
    wait_until(lambda: other.ask("closed") != before)


@pytest.mark.parametrize("name", ["offer_picture", "offer_file"])
def test_no_url_and_no_file_of_the_server_is_opened(name: str, url: str, tmp_path: Path, server: Server) -> None:
    secret = Path(__file__)
    trap_url = f"{server.url}/image.png"
    for path, link in ((trap_url, None), (trap_url, trap_url), (str(secret), None), ("", trap_url)):
        file = {"path": path, "url": link, "meta": {"_type": "gradio.FileData"}}
        with closing(join(url, name, [None, file])) as connection:
            answer = connection.getresponse().read().decode()
        assert "upload" in answer.lower(), answer
        assert secret.read_text(encoding="utf-8")[:40] not in answer
    assert server.requests == []


def test_a_conversation_is_saved_and_loaded_elsewhere(visitor: Visitor, other: Visitor, tmp_path: Path) -> None:
    visitor.give(SCENE)
    visitor.ask("描述这张图片。")
    visitor.ask("busy")
    (tmp_path / "saved.json").write_bytes(visitor.saved("save_json"))
    other.give(tmp_path / "saved.json", "offer_file")
    assert other.ask("小汽车是什么颜色？") == "小汽车是紫色的。"
    assert other.ask("seen").startswith(f"turns [描述这张图片。 小汽车是什么颜色？] image {SCENE_COLOR}")
    markdown = visitor.saved("save_markdown").decode()
    assert DESCRIBED_ZH in markdown
    assert "busy" not in markdown


def test_another_image_waits_for_confirmation(visitor: Visitor) -> None:
    visitor.ask("有没有小汽车？")
    visitor.give(SCENE)
    assert visitor.ask("seen").startswith("turns [有没有小汽车？] image None")
    visitor.call("decline")
    assert visitor.ask("seen").startswith("turns [有没有小汽车？ seen] image None")
    visitor.give(SCENE)
    visitor.call("accept")
    assert visitor.ask("seen").startswith(f"turns [] image {SCENE_COLOR}")


def test_the_requirements_are_gradio_s() -> None:
    """requirements_web.txt lists all of them except Pillow, for the reason that it gives."""
    lines = [(ROOT / f"requirements_{name}.txt").read_text(encoding="utf-8") for name in ("web", "wo_ds")]
    named = {canonical(line) for line in "\n".join(lines).splitlines() if line and line[0] != "#"}
    assert {canonical(text) for text in requires("gradio") or () if "extra ==" not in text} - named == {
        "pillow"
    } - named


def canonical(requirement: str) -> str:
    """Return the normalized package name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


@pytest.mark.slow
def test_the_twin_shows_the_same_page_on_the_hugging_face_model() -> None:
    flags = ("--from_pretrained", "visualglm-tiny", "--temperature", "0", "--device", "cpu")
    with running_page(python("web_demo_hf.py", *flags)) as address:
        visitor = Visitor(address)
        with closing(visitor.client):
            visitor.give(SCENE)
            assert visitor.ask("描述这张图片。") == DESCRIBED_ZH


def run_to_its_end(*flags: str) -> tuple[int, str]:
    """Run the program until it exits; return its exit code and output."""
    words = ["web_demo.py", "--from_pretrained", "visualglm-tiny", "--device", "cpu", *flags]
    ended = run_preloaded(f"import sys, web_demo; sys.argv = {words}; sys.exit(web_demo.main())", modules=WEB)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_taken_port_is_named(url: str) -> None:
    port = str(urlsplit(url).port)
    code, printed = run_to_its_end("--server_port", port)
    assert (code, f"port {port}" in printed, "Traceback" in printed) == (2, True, False)


@pytest.mark.parametrize(
    "wrong",
    [("--auth", "nobody"), ("--temperature", "-1"), ("--server_port", "70000"), ("--server_name", "203.0.113.7")],
)
def test_an_invalid_flag_is_named(wrong: tuple[str, str]) -> None:
    code, printed = run_to_its_end(*wrong)
    name = wrong[1] if wrong[0] == "--server_name" else wrong[0].strip("-")
    assert (code, name in printed, "Traceback" in printed) == (2, True, False)


@pytest.mark.slow
def test_a_login_is_required_and_proxies_are_not_used() -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), f"http://127.0.0.1:{free_port()}")
    with running_page([*PROGRAM, "--auth", "me:secret"], VISUALGLM_AUTH="you:hidden", **nowhere) as url:
        for login, status in (("me", "wrong"), 400), (("me", "secret"), 200), (("you", "hidden"), 200):
            body = f"username={login[0]}&password={login[1]}"
            connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
            with closing(connection):
                connection.request("POST", "/login", body, {"Content-Type": "application/x-www-form-urlencoded"})
                assert connection.getresponse().status == status
                connection.close()
                connection.request("GET", "/config")
                assert connection.getresponse().status == 401

"""Requests of malicious programs to the page open no files, stop no answers and exhaust no resources."""

import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the web page needs Gradio")

from tests.helpers.cli_program import PATIENCE, ROOT, SCENE, huge_png
from tests.helpers.preloaded import WEB, run_preloaded
from tests.helpers.web_client import PageClient, error_code
from tests.helpers.web_program import PROGRAM, running_page
from visualglm.web.body_reader import MAX_JSON_BYTES, MAX_LOGIN_BYTES
from visualglm.web.images import LIMITS
from visualglm.web.routes import MAX_ANSWERS
from visualglm.web.schemas import MAX_ANSWER, MAX_QUESTION, MAX_TURNS

PUBLIC = {"/", "/login", "/theme.css", "/gradio_api/theme.css", "/favicon.ico", "/robots.txt"}
STATIC = ("/assets/", "/static/", "/svelte/")
# Routes of Gradio that the page uses, besides the public ones.
USED = {"/logout", "/gradio_api/startup-events"}
OWN = [
    ("GET", "/page/info"),
    ("POST", "/page/images"),
    ("POST", "/page/answers"),
    ("POST", "/page/votes"),
    ("GET", "/page/scene"),
    ("GET", "/page/client/0/main.js"),
    ("GET", "/page/examples/scene.png"),
]
JUNK: list[Any] = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "x", [], {}, [[[]]], {"path": 5}]
JUNK += ["/etc/passwd", "http://127.0.0.1:9/image.png", "x" * 100_000, ["x"] * 3]
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The page; the tests of this file must cause no traceback in its log."""
    log: list[str] = []
    with running_page(PROGRAM, log=log) as address:
        yield address
    assert "Traceback" not in "".join(log)


@pytest.fixture
def connect() -> Iterator[Callable[..., PageClient]]:
    """A function that creates a visitor of the page at a URL."""
    visitors: list[PageClient] = []

    def make(url: str, **headers: str) -> PageClient:
        visitors.append(PageClient(url, **headers))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.close()


@pytest.fixture
def visitor(url: str, connect: Callable[..., PageClient]) -> PageClient:
    return connect(url)


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A page with a login, a reverse proxy's host name, and a site that may embed it."""
    flags = ["--auth", "me:secret", "--allow-host", "chat.example", "--allow-frame", "https://frames.example"]
    with running_page([*PROGRAM, *flags]) as address:
        yield address


def image_bytes(image: Image.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def test_images_of_all_served_formats_are_taken(visitor: PageClient) -> None:
    moving = [Image.new("P", (30, 20), color) for color in range(3)]
    turned = Image.Exif()
    turned[0x112] = 6  # orientation
    files = {
        "see-through.png": image_bytes(Image.new("RGBA", (30, 20), (255, 0, 0, 128)), "PNG"),
        "moving.gif": image_bytes(moving[0], "GIF", save_all=True, append_images=moving[1:]),
        "phone.heic": (ROOT / "tests" / "images" / "drawn.heic").read_bytes(),
        "turned.jpg": image_bytes(Image.new("RGB", (30, 20)), "JPEG", exif=turned),
    }
    sizes = {}
    for name, data in files.items():
        answer = visitor.send_image(data)
        assert answer.status_code == 200, (name, answer.text)
        assert answer.json()["preview"].startswith("data:image/jpeg;base64,")
        sizes[name] = answer.json()["width"], answer.json()["height"]
    assert (sizes["see-through.png"], sizes["turned.jpg"]) == ((30, 20), (20, 30))


def test_what_is_no_image_is_rejected(visitor: PageClient) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    for data in (b"", heic, b"<svg/>", b"\x89PNG", b"/etc/passwd", b"http://127.0.0.1:9/image.png", huge_png()):
        answer = visitor.send_image(data)
        assert (answer.status_code, error_code(answer)) == (400, "invalid_image")


def test_too_large_bodies_are_rejected(visitor: PageClient) -> None:
    for content in (bytes(LIMITS.max_bytes + 1), iter([bytes(2**20)] * 30)):
        answer = visitor.http.post("/page/images", content=content)
        assert (answer.status_code, error_code(answer)) == (413, "image_too_large")
    for path in ("/page/answers", "/page/answers?lang=zh"):
        answer = visitor.http.post(path, content=b" " * (MAX_JSON_BYTES + 1))
        assert (answer.status_code, error_code(answer)) == (413, "too_large")
    answer = visitor.http.post("/login", content=bytes(MAX_LOGIN_BYTES + 1))
    assert (answer.status_code, error_code(answer)) == (413, "too_large")


def test_texts_over_the_limit_are_rejected(visitor: PageClient) -> None:
    turn = {"question": "q", "answer": "a"}
    for body in (
        {"question": "x" * (MAX_QUESTION + 1)},
        {"question": "x", "turns": [{**turn, "answer": "x" * (MAX_ANSWER + 1)}]},
        {"question": "x", "turns": [turn] * (MAX_TURNS + 1)},
    ):
        assert error_code(visitor.post("/page/answers", body)) == "too_large"


@pytest.mark.parametrize("field", ["image", "turns", "question", "language", "settings", "model", None])
def test_junk_in_a_question_is_rejected(field: str | None, visitor: PageClient) -> None:
    for junk in JUNK:
        body = junk if field is None else {"question": "closed", field: junk}
        answer = visitor.post("/page/answers", body, lang="en")
        if answer.status_code != 200:  # some junk is valid, such as null for the image
            assert error_code(answer) in ("invalid_request", "too_large"), (junk, answer.text)
            assert len(answer.text) < 1000
    for text in ("", "[", "[" * 100_000, '{"question": 1e999}', "\x00", '{"question": "closed", "model": 1}'):
        assert error_code(visitor.http.post("/page/answers", content=text)) == "invalid_request"


@pytest.mark.parametrize("name", ["max_length", "top_p", "top_k", "temperature", "repetition_penalty", "seed", "other"])
def test_unusable_settings_are_rejected(name: str, visitor: PageClient) -> None:
    values = [-1, 10**400, float("nan"), 2**64, "1", [], True]
    for value in [*values, 0.5] if name in ("max_length", "top_k", "seed") else values:
        answer = visitor.post("/page/answers", {"question": "closed", "settings": {name: value}})
        assert error_code(answer) in ("invalid_setting", "invalid_request"), value
    valid = {"max_length": 100.0, "top_p": 1, "top_k": 3.0, "temperature": None, "seed": 2**53 - 1}
    assert visitor.ask("closed", settings=valid).endswith("closed")


def test_lone_surrogates_are_replaced(visitor: PageClient) -> None:
    turns = [{"question": "\ud800", "answer": "\udfff"}]
    assert visitor.post("/page/answers", {"question": "seen", "turns": turns}).status_code == 200
    assert "turns [?]" in visitor.post("/page/answers", {"question": "seen", "turns": turns}).text


def test_an_unknown_image_is_named(visitor: PageClient) -> None:
    answer = visitor.post("/page/answers", {"question": "seen", "image": "0" * 64})
    assert (answer.status_code, error_code(answer)) == (404, "unknown_image")


def test_no_other_file_is_served(visitor: PageClient) -> None:
    address = re.search(r'href="(page/client/[0-9a-f]+/)', visitor.http.get("/").text)
    assert address is not None
    for name in ("main.js", "core/app.js"):
        assert visitor.http.get(f"/{address[1]}{name}").status_code == 200
    for name in (
        "../page.py",
        "..%2fpage.py",
        "%2e%2e/page.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "",
        ".",
        "none.js",
        "core",
        "core/../../page.py",
    ):
        for folder in (address[1], "page/examples/"):
            assert visitor.http.get(f"/{folder}{name}").status_code == 404


def test_messages_are_in_the_language_of_the_request(visitor: PageClient) -> None:
    chinese, english = (
        visitor.post("/page/answers", {}, lang=code).json()["error"]["message"] for code in ("zh", "en")
    )
    assert chinese != english
    assert re.search("[\u4e00-\u9fff]", chinese)
    accepted = visitor.http.post("/page/answers", headers={"Accept-Language": "zh-CN"}).json()["error"]["message"]
    assert re.search("[\u4e00-\u9fff]", accepted)


def test_one_visitor_cannot_use_up_all_answers(guarded: str, connect: Any) -> None:
    member = connect(guarded)
    assert member.log_in("me", "secret").status_code == 200
    codes: list[int] = []
    with ExitStack() as stack:
        while len(codes) < MAX_ANSWERS and 429 not in codes:
            stream = member.http.stream("POST", "/page/answers", json={"question": "slow"})
            codes.append(stack.enter_context(stream).status_code)
    assert codes[-1] == 429


ROUTES = """
import json
from model import DEMO
from model.description import UNNAMED
from visualglm.web.page import Page
class Model:
    image_size = 224
    description = UNNAMED
app = Page(Model(), DEMO).blocks.app
routers = [getattr(route, "original_router", route) for route in app.routes]
routes = [route for router in routers for route in getattr(router, "routes", [router])]
print(json.dumps([(method, route.path) for route in routes for method in route.methods]))
"""


def gradio_routes() -> list[tuple[str, str]]:
    """Return method and path of every route of Gradio's app, with 0 for each path parameter."""
    found = run_preloaded(ROUTES, modules=WEB)
    assert found.returncode == 0, found.stderr
    return [(method, re.sub("{[^}]*}", "0", path)) for method, path in json.loads(found.stdout)]


def test_what_the_page_does_not_use_of_gradio_is_closed(visitor: PageClient) -> None:
    known = gradio_routes()
    assert {"/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel"} <= {path for _, path in known}
    reached = set()
    for method, path in [*known, ("GET", "/gradio_api/file=/etc/passwd"), ("POST", "/gradio_api/run/predict")]:
        if method in ("GET", "POST") and visitor.http.request(method, path).status_code != 404:
            reached.add(path.rstrip("/") or "/")
    assert {path for path in reached if not path.startswith(STATIC)} <= PUBLIC | USED


def test_a_page_with_a_login_gives_strangers_the_login_page_alone(guarded: str, connect: Any) -> None:
    stranger, member = connect(guarded), connect(guarded)
    assert member.log_in("me", "secret").status_code == 200
    reached = set()
    for method, path in [*gradio_routes(), *OWN, ("GET", "/nothing")]:
        answer = stranger.http.request(method, path, json={} if method == "POST" else None)
        if answer.status_code not in (401, 404):
            reached.add(path.rstrip("/") or "/")
        if (method, path) in OWN:
            assert error_code(answer) == "not_logged_in"
            assert member.http.request(method, path, json={} if method == "POST" else None).status_code != 401
    assert {path for path in reached if not path.startswith(STATIC)} <= PUBLIC
    page = stranger.http.get("/").text
    assert ("page-info" in page, "gradio" in page.lower(), 'type="password"' in page) == (False, False, True)
    assert "page-info" in member.http.get("/").text
    assert json.loads(page_info(member))["user"] == "me"


def page_info(visitor: PageClient) -> str:
    found = re.search(r'id="page-info">(.*?)</script>', visitor.http.get("/").text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_login_page_needs_no_script(guarded: str, connect: Any) -> None:
    visitor = connect(guarded, **HTML)
    for code, wrong in (("en", "wrong"), ("zh", "不正确")):
        page = visitor.http.get("/", params={"lang": code}).text
        assert "<script" not in page
        assert not re.search(r'(?:src|href)="(?!data:|\./)', page)
        failed = visitor.http.post(f"/login?lang={code}", data={"username": "me", "password": "<b>"})
        assert (failed.status_code, wrong in failed.text, "<b>" in failed.text) == (400, True, False)
    done = visitor.http.post("/login?lang=zh", data={"username": "me", "password": "secret"})
    assert (done.status_code, done.headers["location"]) == (303, "./?lang=zh")
    assert "page-info" in visitor.http.get("/").text
    assert visitor.http.get("/logout").status_code in (302, 307)
    assert "page-info" not in visitor.http.get("/").text


@pytest.mark.parametrize(
    ("host", "known"),
    [("localhost:1", True), ("127.0.0.2", True), ("[::1]:1", True), ("evil.example", False), ("chat.example", False)],
)
def test_the_page_answers_to_its_own_names(host: str, known: bool, url: str, guarded: str, connect: Any) -> None:
    for path in ("/", "/page/examples/scene.png"):
        assert connect(url, Host=host).http.get(path).status_code == (200 if known else 403)
    answer = connect(guarded, Host=host).http.get("/")
    assert answer.status_code == (200 if known or host == "chat.example" else 403)
    assert answer.status_code == 200 or host in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/theme.css"), ("POST", "/page/answers"), ("OPTIONS", "/login")])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9", "http://[", "https://chat.example"]
)
def test_pages_of_other_sites_get_nothing(
    origin: str, method: str, path: str, url: str, guarded: str, connect: Any
) -> None:
    headers = {"Origin": origin}
    assert connect(url, **headers).http.request(method, path).status_code == 403
    allowed = connect(guarded, **headers).http.request(method, path).status_code
    assert (allowed == 403) is (origin != "https://chat.example")
    own = connect(url, Origin=url.rstrip("/")).http.request(method, path).status_code
    assert own != 403


def test_responses_have_security_headers(url: str, guarded: str, visitor: PageClient, connect: Any) -> None:
    for path in ("/", "/page/info", "/nothing", "/theme.css", "/page/examples/scene.png"):
        headers = visitor.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    policy = connect(guarded).http.get("/").headers["content-security-policy"]
    assert policy == "frame-ancestors 'self' https://frames.example"


@pytest.mark.slow  # waits for the header timeout
def test_slow_headers_do_not_hold_a_connection(url: str) -> None:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /page/info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}}"):
            answer += sock.recv(65536)
        sock.sendall(b"GET /page/info HTTP/1.1\r\nHost:")
        assert sock.recv(65536) == b""


@pytest.mark.slow
def test_wrong_passwords_are_slowed_and_logged(connect: Any) -> None:
    log: list[str] = []
    with running_page([*PROGRAM, "--auth", "me:secret"], log=log) as url:
        visitor = connect(url)
        codes = [visitor.log_in("me", f"wrong{number}").status_code for number in range(8)]
        assert set(codes[:5]) == {400}
        assert codes[-1] == 429
        assert visitor.log_in("me", "secret").status_code == 429
        rejected = visitor.http.post("/login?lang=en", data={"username": "me", "password": "secret"}, headers=HTML)
        assert (rejected.status_code, "Too many" in rejected.text, 'type="password"' in rejected.text) == (
            429,
            True,
            True,
        )
    assert "Login from 127.0.0.1 failed (5 times)" in "".join(log)
    assert "wrong0" not in "".join(log)


@pytest.mark.slow
def test_the_page_starts_beside_another_user_s_folder_and_leaves_none(tmp_path: Path, connect: Any) -> None:
    (tmp_path / "gradio").write_text("another user's")
    with running_page(PROGRAM, TMPDIR=str(tmp_path), GRADIO_TEMP_DIR="") as url:
        visitor = connect(url)
        assert visitor.ask("seen", visitor.add_image(SCENE)).startswith("turns [] image")
        for folder in tmp_path.glob("visualglm-*"):
            assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.glob("visualglm-*")) == []

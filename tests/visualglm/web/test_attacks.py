"""Requests of malicious programs to the page open no files, stop no answers and exhaust no resources."""

import base64
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the web page needs Gradio")

from visualglm.web.layout import EXAMPLES, MAX_QUESTION

from model.images.preprocess import load_image
from tests.helpers.cli_program import PATIENCE, ROOT, SCENE
from tests.helpers.preloaded import WEB, run_preloaded
from tests.helpers.web_client import DEFAULTS, RawVisitor, shown_messages
from tests.helpers.web_program import PROGRAM, color_of, running_page
from visualglm.web.middleware import MAX_BODY_BYTES, MAX_PENDING_EVENTS

FILE_EVENTS = ("offer_picture", "offer_file")
OPEN = {"/", "/login", "/theme.css", "/gradio_api/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"}
STATIC = ("/assets/", "/static/", "/svelte/")
JUNK: list[Any] = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "x", "\ud800", [], {}, [[[]]], {"path": 5}]
JUNK += [{"path": SCENE, "meta": 5}, {"path": SCENE, "meta": {}}, {"path": "\x00"}, {"path": "\ud800"}, {"value": 1}]
JUNK += ["x" * 100_000, {"path": "x" * 100_000}, [{"path": SCENE}] * 3]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The page; the tests of this file must cause no traceback in its log."""
    log: list[str] = []
    with running_page(PROGRAM, log=log) as address:
        yield address
    assert "Traceback" not in "".join(log)


@pytest.fixture
def connect() -> Iterator[Callable[..., RawVisitor]]:
    """A function that creates a visitor of the page at a URL."""
    visitors: list[RawVisitor] = []

    def make(url: str, **headers: str) -> RawVisitor:
        visitors.append(RawVisitor(url, **headers))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.http.close()


@pytest.fixture
def visitor(url: str, connect: Callable[..., RawVisitor]) -> RawVisitor:
    """A visitor after the load event, which updates every component."""
    return connect(url).load()


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


def shapes(path: str) -> list[dict[str, Any]]:
    """Return values of a file component that name a path in all possible forms."""
    return [
        {"path": path},
        {"path": path, "meta": {"_type": "gradio.FileData"}},
        {"path": path, "meta": {"_type": "other"}},
        {"path": path, "meta": None, "url": path, "orig_name": "picture.png", "is_stream": True},
    ]


@pytest.mark.parametrize("event", FILE_EVENTS)
def test_no_path_outside_the_uploads_is_opened(event: str, visitor: RawVisitor, tmp_path: Path) -> None:
    secret = tmp_path / "photo.png"
    shutil.copy(SCENE, secret)
    uploaded = visitor.upload(Path(SCENE).read_bytes(), "scene.png")
    inside = Path(uploaded).parent
    (inside / f"{event}-link.png").symlink_to(secret)
    os.mkfifo(inside / f"{event}-pipe.png")
    outside = [secret, tmp_path / "no photo.png", tmp_path, "/dev/zero", "/proc/self/environ", secret.as_uri()]
    links = [inside / f"{event}-link.png", inside / f"{event}-pipe.png", inside / os.path.relpath(secret, inside)]
    paths = [*outside, *links, inside, inside / "none.png"]
    answers = {shown_messages(visitor.call(event, [None, shape])) for path in paths for shape in shapes(str(path))}
    assert len(answers) == 1
    assert "not a file that was uploaded" in answers.pop()
    assert visitor.saved()["image"] is None


def test_uploads_and_examples_are_read(visitor: RawVisitor) -> None:
    for path in (visitor.upload(Path(SCENE).read_bytes(), "a.png"), SCENE):
        for shape in shapes(path):
            visitor.call("offer_picture", [None, None])
            assert shown_messages(visitor.call("offer_picture", [None, shape])) == ""
            assert base64.b64decode(visitor.saved()["image"].partition(",")[2]) == Path(SCENE).read_bytes()


def test_the_examples_have_their_images(visitor: RawVisitor) -> None:
    visitor.upload(b"text", "a.txt")
    updated = visitor.call("greet", [None])[-1]["output"]["data"]
    (icons,) = [
        [example["icon"]["url"] for example in part["examples"]] for part in updated if part and "examples" in part
    ]
    assert len(icons) == len(EXAMPLES)
    assert {visitor.http.get(url).headers["content-type"] for url in icons} == {"image/png"}


def test_another_page_s_uploads_are_not_opened(visitor: RawVisitor, guarded: str, connect: Any) -> None:
    other = connect(guarded)
    assert other.log_in("me", "secret").status_code == 200
    path = other.upload(Path(SCENE).read_bytes(), "scene.png")
    assert "not a file that was uploaded" in shown_messages(visitor.call("offer_picture", [None, {"path": path}]))
    assert visitor.http.get(f"/gradio_api/file={path}").status_code == 403
    assert other.http.get(f"/gradio_api/file={path}").status_code == 200


def test_images_reach_the_page_as_they_were_uploaded(visitor: RawVisitor) -> None:
    see_through = Image.new("RGBA", (30, 20), (255, 0, 0, 128))
    moving = [Image.new("P", (30, 20), color) for color in range(3)]
    turned = Image.Exif()
    turned[0x112] = 6  # orientation
    files = {
        "see-through.png": image_bytes(see_through, "PNG"),
        "moving.gif": image_bytes(moving[0], "GIF", save_all=True, append_images=moving[1:]),
        "phone.heic": (ROOT / "tests" / "images" / "drawn.heic").read_bytes(),
        "turned.jpg": image_bytes(Image.new("RGB", (30, 20)), "JPEG", exif=turned),
    }
    for name, data in files.items():
        visitor.call("offer_picture", [None, None])
        path = visitor.upload(data, name)
        assert shown_messages(visitor.call("offer_picture", [None, {"path": path, "orig_name": name}])) == ""
        assert base64.b64decode(visitor.saved()["image"].partition(",")[2]) == data


def test_a_question_waits_for_the_image_before_it(visitor: RawVisitor) -> None:
    image = image_bytes(Image.effect_noise((3000, 3000), 100), "PNG")
    path = visitor.upload(image, "large.png")
    visitor.join("offer_picture", [None, {"path": path}])
    visitor.join("ask", [None, "seen", *DEFAULTS])
    assert "image None" not in str(visitor.fetch())


def test_the_error_of_an_image_is_shown(visitor: RawVisitor) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    for data, keyword in (
        (heic, "image data"),
        (b"<svg/>", "SVG"),
        (b"\x89PNG", "image"),
        (bytes(21 * 2**20), "bytes"),
    ):
        path = visitor.upload(data, "picture.png")
        messages = visitor.call("offer_picture", [None, {"path": path, "orig_name": "picture.heic"}])
        assert messages[-1]["success"]
        assert keyword in shown_messages(messages)


def test_addresses_are_rejected_by_the_page(visitor: RawVisitor) -> None:
    address = "http://127.0.0.1:9/image.png"
    for shape in [*shapes(address), {"path": "", "url": address}, {"url": "data:image/png;base64,AAAA"}]:
        for event in FILE_EVENTS:
            assert "upload" in shown_messages(visitor.call(event, [None, shape])).lower()
    for path in (address, f"https:{address[5:]}", "//127.0.0.1:9/"):
        assert visitor.http.get(f"/gradio_api/file={path}").status_code == 403


def test_no_event_fails_on_invalid_values(url: str, visitor: RawVisitor) -> None:
    events = [event for event in visitor.events() if event["backend_fn"]]
    assert len(events) > 10
    for event in events:
        assert visitor.join(event["id"], {"0": None}).status_code == 422
        for junk in JUNK:
            assert visitor.call(event["id"], [junk] * len(event["inputs"]), event_data=junk)
        assert visitor.call(event["id"], [])
    assert visitor.call("ask", [None, "closed", *DEFAULTS])[-1]["success"]


@pytest.mark.parametrize("number", [-1, 10**6, 10**30, None, "ask", 1.5, [0]])
def test_no_other_event_is_run(number: Any, visitor: RawVisitor) -> None:
    body = {"fn_index": number, "session_hash": visitor.session, "data": [None]}
    assert visitor.http.post("/gradio_api/queue/join", json=body).status_code == 404


def test_events_without_a_handler_are_not_run(visitor: RawVisitor) -> None:
    for event in visitor.events():
        if not event["backend_fn"]:
            assert visitor.join(event["id"], [None]).status_code == 404


def test_texts_over_the_limit_are_rejected(visitor: RawVisitor) -> None:
    long = "x" * (MAX_QUESTION + 1)
    assert f"{MAX_QUESTION:,}" in shown_messages(visitor.call("ask", [None, long, *DEFAULTS]))
    visitor.call("ask", [None, "seen", *DEFAULTS])
    edited = visitor.call("ask_edited", [None, *DEFAULTS], {"index": 0, "value": long, "previous_value": ""})
    assert str(MAX_QUESTION) in shown_messages(edited)
    assert [turn["question"] for turn in visitor.saved()["turns"]] == ["seen"]
    too_much = {"fn_index": 0, "session_hash": "a", "data": ["x" * MAX_BODY_BYTES]}
    assert visitor.http.post("/gradio_api/queue/join", json=too_much).status_code == 413


def test_the_queue_cannot_be_bypassed(visitor: RawVisitor) -> None:
    for way in ("run", "api", "call", "call/v2"):
        assert visitor.http.post(f"/gradio_api/{way}/ask", json={"data": [None, "seen", *DEFAULTS]}).status_code == 404


def test_the_number_of_unfetched_events_is_limited(visitor: RawVisitor) -> None:
    codes = [visitor.join(0, [None]).status_code for _ in range(MAX_PENDING_EVENTS + 2)]
    assert codes == [200] * MAX_PENDING_EVENTS + [429] * 2
    visitor.fetch()
    assert visitor.join(0, [None]).status_code == 200


def test_too_large_uploads_are_rejected(visitor: RawVisitor) -> None:
    answer = visitor.http.post("/gradio_api/upload", files={"files": ("a", bytes(40 * 2**20))})
    assert answer.status_code == 413
    parts = (b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n', *[bytes(2**20)] * 40)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert visitor.http.post("/gradio_api/upload", content=iter(parts), headers=kind).status_code == 413


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


def routes() -> list[tuple[str, str]]:
    """Return method and path of every route of Gradio's app, with 0 for each path parameter."""
    found = run_preloaded(ROUTES, modules=WEB)
    assert found.returncode == 0, found.stderr
    return [(method, re.sub("{[^}]*}", "0", path)) for method, path in json.loads(found.stdout)]


def test_a_page_with_a_login_gives_strangers_the_login_page_alone(guarded: str, connect: Any) -> None:
    stranger, member = connect(guarded), connect(guarded)
    assert member.log_in("me", "secret").status_code == 200
    known = routes()
    assert {"/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/app_id"} <= {path for _, path in known}
    reached = set()
    for method, path in [*known, ("GET", "/nothing")]:
        code = stranger.http.request(method, path, json={} if method == "POST" else None).status_code
        if code not in (401, 404):
            reached.add(path.rstrip("/") or "/")
    assert {path for path in reached if not path.startswith(STATIC)} <= OPEN
    cancel = {"session_hash": "a", "fn_index": 0, "event_id": "a"}
    assert stranger.http.post("/gradio_api/cancel", json=cancel).status_code == 401
    assert member.http.post("/gradio_api/cancel", json=cancel).status_code == 200
    assert "auth_required" in stranger.http.get("/").text
    assert "auth_required" not in member.http.get("/").text


@pytest.mark.parametrize(
    ("host", "known"),
    [("localhost:1", True), ("127.0.0.2", True), ("[::1]:1", True), ("evil.example", False), ("chat.example", False)],
)
def test_the_page_answers_to_its_own_names(host: str, known: bool, url: str, guarded: str, connect: Any) -> None:
    assert connect(url, Host=host).http.get("/").status_code == (200 if known else 403)
    code = connect(guarded, Host=host).http.get("/").status_code
    assert code == (200 if known or host == "chat.example" else 403)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9", "http://[", "https://chat.example"]
)
def test_pages_of_other_sites_get_nothing(origin: str, method: str, url: str, guarded: str, connect: Any) -> None:
    headers = {"Origin": origin}
    path = "/theme.css" if method == "GET" else "/gradio_api/queue/join"
    assert connect(url, **headers).http.request(method, path).status_code == 403
    allowed = connect(guarded, **headers).http.request(method, path).status_code
    assert (allowed == 403) is (origin != "https://chat.example")
    own = connect(url, Origin=url.rstrip("/")).http.request(method, path).status_code
    assert own != 403


def test_responses_have_security_headers(url: str, guarded: str, visitor: RawVisitor, connect: Any) -> None:
    uploaded = visitor.upload(b"<script>alert(1)</script>", "page.html")
    for path in ("/", "/config", "/nothing", "/theme.css", f"/gradio_api/file={uploaded}"):
        headers = visitor.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert "sandbox" in headers["content-security-policy"]
    policy = connect(guarded).http.get("/").headers["content-security-policy"]
    assert policy == "frame-ancestors 'self' https://frames.example"


@pytest.mark.slow  # waits for the header timeout
def test_slow_headers_do_not_hold_a_connection(url: str) -> None:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += sock.recv(65536)
        sock.sendall(b"GET /config HTTP/1.1\r\nHost:")
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
    assert "Login from 127.0.0.1 failed (5 times)" in "".join(log)
    assert "wrong" not in "".join(log)


@pytest.mark.slow
def test_each_page_has_a_folder_of_its_own(tmp_path: Path, connect: Any) -> None:
    (tmp_path / "gradio").write_text("another user's")
    log: list[str] = []
    image = Path(SCENE).read_bytes()
    with running_page(PROGRAM, log=log, TMPDIR=str(tmp_path), GRADIO_TEMP_DIR="") as url:
        visitor = connect(url).load()
        folder = Path(visitor.upload(image, "scene.png")).parents[1]
        assert folder.is_relative_to(tmp_path)
        assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(folder.parent)  # as a cleanup of /tmp does
        assert shown_messages(visitor.call("offer_picture", [None, {"path": visitor.upload(image, "again.png")}])) == ""
        assert folder.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(folder)
        folder.write_text("not a folder")
        assert visitor.http.post("/gradio_api/upload", files={"files": ("a.png", image)}).status_code == 507
        folder.unlink()
        # The image's file was removed, so a smaller copy is saved, with a warning.
        assert "smaller copy" in shown_messages(visitor.call("save_json", [None])) or "副本" in shown_messages(
            visitor.call("save_json", [None])
        )
        saved = base64.b64decode(visitor.saved()["image"].partition(",")[2])
        assert color_of(load_image(saved)).split("-")[0] == color_of(load_image(SCENE)).split("-")[0]
    assert "upload failed" in "".join(log)
    deadline = time.monotonic() + PATIENCE
    while list(tmp_path.glob("visualglm-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(tmp_path.glob("visualglm-*")) == []

"""No request makes the server open a file or connect to an address that is not allowed (SSRF)."""

import base64
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from model.errors import ImageError
from model.images.preprocess import load_image
from tests.helpers.api_server import SCENE, SCENE_URL, SteppedModel, completion, messages, serving
from tests.helpers.audit_events import record_audit_events
from tests.helpers.image_files import encode
from tests.helpers.web_server import PUBLIC, address_of, connect_here

PATH = "/v1/chat/completions"
IMAGE = Image.new("RGB", (32, 32), "red")
LOCATIONS = (
    "/etc/passwd",
    "examples/scene.png",
    "~/.ssh/id_rsa",
    "../../../etc/passwd",
    "file:///etc/passwd",
    "file:examples/scene.png",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:6379/_",
    "http://127.0.0.1:1/x.png",
    "HTTPS://localhost/x.png",
    "  http://169.254.169.254/latest/meta-data",
    "//127.0.0.1/x",
    "\\\\127.0.0.1\\share\\x.png",
    "data:text/html,<img src=http://127.0.0.1/>",
    "jar:file:///x!/y",
)
PRIVATE_URLS = (
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://0x7f.0.0.1/",
    "http://0x7f000001/",
    "http://localhost/",
    "http://localhost./",
    "http://0.0.0.0/",
    "http://0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://user:secret@127.0.0.1/",
    "http://127.0.0.1#@example.com/",
    "http://example.com@127.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
)


def ask(client: httpx.Client, url: str) -> httpx.Response:
    return client.post(PATH, json=completion("图片里有什么？", image=url, max_tokens=1))


@pytest.fixture(scope="module")
def allowing():
    """A client of a server that reads images from public URLs."""
    with serving(SteppedModel(free=True, length=3), allow_image_urls=True) as client:
        ask(client, SCENE_URL)
        yield client


def test_nothing_in_a_request_is_opened(tiny_server):
    for path, body in (("/", {"text": "你好"}), (PATH, completion("你好"))):
        tiny_server.post(path, json=body)  # the first request of each kind may import modules
    tiny_server.service.images.decoder.warm_up()  # starting the child process opens pipes
    with record_audit_events() as recorded:
        for location in LOCATIONS:
            for text in (location, f"问：<img>{location}</img>"):
                history = [[text, text]]
                assert (
                    tiny_server.post("/", json={"text": text, "history": history, "max_new_tokens": 1}).status_code
                    == 200
                )
                body = {"messages": [{"role": "system", "content": text}, *messages(text, text, text)], "max_tokens": 1}
                assert tiny_server.post(PATH, json={"model": "visualglm-tiny", **body}).status_code == 200
            assert tiny_server.post("/", json={"text": "?", "image": location}).status_code == 400
            assert ask(tiny_server, location).status_code == 400
    assert recorded == []


NOT_IMAGES = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
    b"<svg><image href='/etc/passwd'/></svg>",
    b"GIF89a",
)


def test_no_image_of_any_format_makes_the_server_open_a_file():
    with serving(SteppedModel(free=True, length=1)) as client:
        client.service.images.decoder.warm_up()  # starting the child process opens pipes
        with record_audit_events() as recorded:
            for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
                source = base64.b64encode(encode(IMAGE, name)).decode()
                assert client.post("/", json={"text": "?", "image": source}).status_code == 200, name
            for data in (*NOT_IMAGES, encode(IMAGE, "ICO"), encode(IMAGE, "PPM")):
                source = base64.b64encode(data).decode()
                assert client.post("/", json={"text": "?", "image": source}).status_code == 400
        assert recorded == []


def test_no_image_of_any_format_makes_its_decoder_open_a_file():
    """Decoding runs in the server's child processes, so it is tested directly."""
    formats = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA", "PCX", "SGI")
    files = [*(encode(IMAGE, name) for name in formats), *NOT_IMAGES]

    def decode_all() -> None:
        for data in files:
            with contextlib.suppress(ImageError):
                load_image(data)

    decode_all()  # the first image of each format may import modules
    with record_audit_events() as recorded, ThreadPoolExecutor(1) as pool:
        pool.submit(decode_all).result()
    assert recorded == []


def test_addresses_are_not_read_unless_that_is_allowed(tiny_server):
    with record_audit_events() as recorded:
        response = ask(tiny_server, f"http://{PUBLIC}/x.png")
    assert response.status_code == 400 and "Send the image itself" in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "invalid_image"
    assert recorded == []


@pytest.mark.parametrize("url", PRIVATE_URLS)
def test_private_addresses_are_never_connected_to(allowing, url):
    with record_audit_events() as recorded:
        response = ask(allowing, url)
    assert response.status_code == 400 and "secret" not in response.text
    assert not [event for event in recorded if event[0] not in ("socket.getaddrinfo", "open")]
    assert all(event[1][0] in ("/etc/hosts", "/etc/resolv.conf") for event in recorded if event[0] == "open")


def test_a_name_that_resolves_to_a_private_address_is_rejected(allowing, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [address_of("10.0.0.7", port)])
    with record_audit_events() as recorded:
        response = ask(allowing, "http://inner.example/x.png")
    assert response.status_code == 400 and "not a public address" in response.json()["error"]["message"]
    assert "10.0.0.7" not in response.text
    assert recorded == []


@pytest.fixture
def public(monkeypatch, allowing, server):
    """A web server that receives the connections to the public address, and records the names looked up."""
    connect = socket.socket.connect

    def connect_public(sock, address):
        return connect_here(sock, server) if address[0] == PUBLIC else connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", connect_public)
    server.names = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_, **__: resolve(server, host, port))
    server.answers = {}
    yield server


def resolve(server, host: str, port: int) -> list:
    """Return the addresses set for a name, one per lookup; then the last one again."""
    if host != "127.0.0.1":  # except lookups of the test's own client
        server.names.append(host)
    answers = server.answers.get(host, [host])
    return [address_of(answers.pop(0) if len(answers) > 1 else answers[0], port)]


def test_a_public_image_is_read(allowing, public):
    public.answers["images.example"] = [PUBLIC]
    public.routes["/x.png"] = lambda handler: handler.reply(body=SCENE.read_bytes())
    assert ask(allowing, "http://images.example/x.png").status_code == 200
    assert allowing.post("/", json={"text": "?", "image": "http://images.example/x.png"}).status_code == 200


def test_a_name_that_resolves_differently_later_is_not_looked_up_again(allowing, public):
    """DNS rebinding: the name is looked up once, and the connection uses the checked address."""
    public.answers["changing.example"] = [PUBLIC, "127.0.0.1"]
    public.routes["/x.png"] = lambda handler: handler.reply(body=SCENE.read_bytes())
    assert ask(allowing, "http://changing.example/x.png").status_code == 200
    assert public.names == ["changing.example"]
    assert ask(allowing, "http://changing.example/x.png").status_code == 400


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/", "http://inner.example/", "http://[::1]/", "file:///etc/passwd"]
)
def test_redirects_to_private_addresses_are_rejected(allowing, public, target):
    public.answers |= {"images.example": [PUBLIC], "inner.example": ["192.168.0.1"]}
    public.routes["/x.png"] = lambda handler: handler.reply(302, b"", Location=target)
    with record_audit_events() as recorded:
        assert ask(allowing, "http://images.example/x.png").status_code == 400
    assert not [event for event in recorded if event[0] == "open"]
    assert len(public.requests) == 1


def test_environment_proxies_are_not_used(allowing, public, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    public.answers["images.example"] = [PUBLIC]
    public.routes["/x.png"] = lambda handler: handler.reply(body=SCENE.read_bytes())
    assert ask(allowing, "http://images.example/x.png").status_code == 200


def test_domains_that_are_allowed_are_the_only_ones(public):
    public.answers |= {name: [PUBLIC] for name in ("a.example", "b.a.example", "nota.example", "c.example")}
    public.routes["/x.png"] = lambda handler: handler.reply(body=SCENE.read_bytes())
    public.routes["/away"] = lambda handler: handler.reply(302, b"", Location="http://c.example/x.png")
    options = {"allow_image_urls": True, "allowed_image_domains": ("A.example.",)}
    with serving(SteppedModel(free=True, length=1), **options) as client:
        assert ask(client, "http://a.example/x.png").status_code == 200
        assert ask(client, "http://B.A.EXAMPLE./x.png").status_code == 200
        public.names.clear()
        for url in ("http://nota.example/x.png", "http://c.example/x.png", f"http://{PUBLIC}/x.png"):
            assert ask(client, url).status_code == 400
        assert public.names == []
        assert ask(client, "http://a.example/away").status_code == 400
        assert public.names == ["a.example"]


def test_only_default_and_listed_ports_are_used(public):
    public.answers["images.example"] = [PUBLIC]
    public.routes["/x.png"] = lambda handler: handler.reply(body=SCENE.read_bytes())
    with serving(SteppedModel(free=True, length=1), allow_image_urls=True, allowed_image_ports=("8080",)) as client:
        assert ask(client, "http://images.example:8080/x.png").status_code == 200
        refused = ask(client, "http://images.example:8081/x.png")
        assert refused.status_code == 400
        assert "port 8081" in refused.text


def test_large_and_slow_images_are_aborted(public):
    public.answers["images.example"] = [PUBLIC]
    public.routes["/large"] = lambda handler: handler.reply(body=b"x" * 2000)
    public.routes["/drip"] = lambda handler: (
        handler.reply(body=b"", Content_Length="900"),
        handler.drip(lambda: b"x"),
    )
    options = {"allow_image_urls": True, "max_picture": 1000, "image_url_timeout": 0.3}
    with serving(SteppedModel(free=True, length=1), **options) as client:
        assert "more than 1,000 bytes" in ask(client, "http://images.example/large").text
        assert "within 0.3 seconds" in ask(client, "http://images.example/drip").text

"""A URL becomes bytes or an explanation, in bounded time and space; on request from public addresses alone."""

import _socket
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest

from model import fetch
from model.errors import ImageError
from model.fetch import display_url, fetch_bytes, is_public_address

BODY = b"\x89PNG and so on" * 100
PUBLIC = "93.184.216.34"


class Handler(BaseHTTPRequestHandler):
    """Answers as the function in the server's `routes` does, and notes what was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        self.close_connection = True
        self.server.routes.get(self.path, lambda handler: handler.send_error(404))(self)

    def do_CONNECT(self) -> None:
        self.do_GET()

    def reply(self, status: int = 200, body: bytes = BODY, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, data: Callable[[], bytes]) -> None:
        """Send a little every few milliseconds until the client leaves or the test ends."""
        while not self.server.over.wait(0.02):
            self.wfile.write(data())
            self.wfile.flush()

    def log_message(self, *_) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_) -> None:  # a client that left early is what many tests are about
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def refusal(url: str, **options) -> str:
    """Return the message with which `url` is refused."""
    with pytest.raises(ImageError) as error:
        fetch_bytes(url, **options)
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    return str(error.value)


def redirect(location: str, status: int = 302) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(status, b"moved", Location=location)


def test_a_picture_is_fetched(server):
    server.routes["/cat.png"] = Handler.reply
    assert fetch_bytes(f"{server.url}/cat.png#left") == BODY
    assert fetch_bytes(f"  {server.url.upper()}/cat.png ") == BODY
    headers = server.asked[0][1]
    assert headers["Accept-Encoding"] == "identity" and headers["Host"] == f"127.0.0.1:{server.server_port}"
    assert "Authorization" not in headers


def test_a_body_without_a_length_and_a_chunked_one(server):
    def chunked(handler):
        handler.reply(body=b"", Transfer_Encoding="chunked", Content_Length="")
        handler.wfile.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")

    server.routes["/open"] = lambda handler: handler.reply(Content_Length="")
    server.routes["/chunked"] = chunked
    assert fetch_bytes(f"{server.url}/open") == BODY
    assert fetch_bytes(f"{server.url}/chunked") == b"abcde"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/图片/猫.png?名=咪 咪", f"/{quote('图片')}/{quote('猫')}.png?{quote('名')}={quote('咪 咪')}"),
        ("/my cat.png", "/my%20cat.png"),
        ("/my%20cat%2F1.png?a=%E7%8C%AB&b=1+2", "/my%20cat%2F1.png?a=%E7%8C%AB&b=1+2"),
        ("/100%.png", "/100%25.png"),
        ('/a"<>\\^`{|}.png', "/a%22%3C%3E%5C%5E%60%7B%7C%7D.png"),
        ("/@user/~x/(1),;=$!*'.png", "/@user/~x/(1),;=$!*'.png"),
        ("?q=1", "/?q=1"),
        ("", "/"),
    ],
)
def test_paths_in_any_script(server, path, sent):
    server.routes[sent] = Handler.reply
    assert fetch_bytes(server.url + path) == BODY


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("图片.example", "xn--wcsw84d.example"),
        ("bücher.example.", "xn--bcher-kva.example"),
        ("a_b.Example", "a_b.example"),
        ("例子。测试", "xn--fsqu00a.xn--0zwm56d"),
    ],
)
def test_hosts_in_any_script(server, monkeypatch, host, asked):
    names = []

    def look_up(name, port, **_):
        names.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    server.routes["/"] = Handler.reply
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert fetch_bytes(f"http://{host}:{server.server_port}/") == BODY
    assert names == [asked] and server.asked[0][1]["Host"] == f"{asked}:{server.server_port}"


def test_a_password_is_sent_and_never_shown(server):
    server.routes["/cat.png"] = Handler.reply
    port = server.server_port
    assert fetch_bytes(f"http://me:s%40cret@127.0.0.1:{port}/cat.png") == BODY
    assert server.asked[0][1]["Authorization"] == "Basic bWU6c0BjcmV0"
    for url in (
        f"http://me:secret@127.0.0.1:{port}/none?key=secret",
        "ftp://me:secret@127.0.0.1/",
        "http://me:secret@/x",
        "http://me:se/secret@127.0.0.1/",
        "http://me:secret@[127.0.0.1/",
        f"http://me:secret@127.0.0.1:{port}0000/",
    ):
        message = refusal(url)
        assert "secret" not in message and "me:" not in message


def test_redirects_are_followed(server):
    server.routes |= {
        "/1": redirect(f"{server.url}/2", 301),
        "/2": redirect("3?x=1", 307),
        "/3?x=1": redirect("/%E5%9B%BE/4", 308),
        quote("/图/4"): Handler.reply,
    }
    assert fetch_bytes(f"{server.url}/1", max_redirects=3) == BODY
    assert "redirected more than 2 times" in refusal(f"{server.url}/1", max_redirects=2)


def test_a_redirect_in_raw_utf8(server):
    def answer(handler):
        raw = b"HTTP/1.1 302 Found\r\nLocation: /\xe7\x8c\xab.png\r\nContent-Length: 0\r\n\r\n"
        handler.wfile.write(raw)

    server.routes |= {"/1": answer, "/%E7%8C%AB.png": Handler.reply}
    assert fetch_bytes(f"{server.url}/1") == BODY


def test_a_redirect_loop_ends(server):
    server.routes |= {"/a": redirect("/b"), "/b": redirect("/a")}
    message = refusal(f"{server.url}/a")
    assert "redirected more than 5 times" in message and "Check the address" in message
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("file:///etc/passwd", "only addresses that start with http:// or https://"),
        ("ftp://127.0.0.1/x", "only addresses that start with http:// or https://"),
        ("http://[broken/", "redirects to a broken address"),
        ("https:///", "not a complete http(s) address"),
    ],
)
def test_redirects_that_lead_nowhere(server, location, part):
    server.routes["/a"] = redirect(location)
    assert part in refusal(f"{server.url}/a")


def test_a_redirect_to_an_inner_address_is_refused(server, monkeypatch):
    """The first host is public, as far as its name tells; only the second shows what was wanted."""
    monkeypatch.setattr(socket.socket, "connect", lambda self, _: connect_here(self, server))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [address_of(host, port)])
    server.routes["/a"] = redirect("http://169.254.169.254/latest")
    message = refusal(f"http://{PUBLIC}/a", public_only=True)
    assert "169.254.169.254 is not a public address" in message
    assert len(server.asked) == 1


def address_of(host: str, port: int) -> tuple:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))


def connect_here(sock: socket.socket, server: Server) -> None:
    _socket.socket.connect(sock, ("127.0.0.1", server.server_port))


def test_too_many_bytes_are_refused(server):
    sent = []

    def endless(handler):
        handler.reply(Content_Length="")
        while not handler.server.over.is_set():
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    server.routes |= {
        "/declared": lambda handler: handler.reply(body=b"", Content_Length="99999999999"),
        "/endless": endless,
        "/exact": Handler.reply,
    }
    for path in ("/declared", "/endless"):
        message = refusal(server.url + path, max_bytes=1000)
        assert "more than 1,000 bytes" in message and "Choose a smaller version" in message
    assert sum(sent) < 50_000_000
    assert fetch_bytes(f"{server.url}/exact", max_bytes=len(BODY)) == BODY
    assert "bytes" in refusal(f"{server.url}/exact", max_bytes=len(BODY) - 1)


@pytest.mark.parametrize("stage", ["silence", "status", "headers", "body", "chunks"])
def test_a_slow_server_is_cut_off(server, stage):
    def answer(handler):
        if stage == "body":
            handler.reply(body=b"", Content_Length="1000000")
        elif stage == "chunks":
            handler.reply(body=b"", Content_Length="", Transfer_Encoding="chunked")
        elif stage == "headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        if stage == "silence":
            handler.server.over.wait(20)
        else:
            handler.drip(lambda: b"1\r\nx\r\n" if stage == "chunks" else b"1")

    server.routes["/slow"] = answer
    start = time.monotonic()
    message = refusal(f"{server.url}/slow", timeout=0.4)
    assert time.monotonic() - start < 5
    assert "127.0.0.1 did not send it within 0.4 seconds" in message and "Try again later" in message


def test_redirects_share_one_time_limit(server):
    def answer(handler):
        time.sleep(0.1)
        redirect("/again")(handler)

    server.routes["/again"] = answer
    assert "within 0.4 seconds" in refusal(f"{server.url}/again", timeout=0.4, max_redirects=10**6)


def test_a_slow_resolver_is_cut_off(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20))
    assert "within 0.2 seconds" in refusal("http://a.example/", timeout=0.2, public_only=True)
    over.set()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_breaks_off_is_refused(server, chunked):
    def answer(handler):
        if chunked:
            handler.reply(body=b"ff\r\nabc", Content_Length="", Transfer_Encoding="chunked")
        else:
            handler.reply(Content_Length="5000")

    server.routes["/cut"] = answer
    message = refusal(f"{server.url}/cut")
    assert "127.0.0.1 broke off" in message and "Try again" in message


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, b"\0" * 70000]
)
def test_an_answer_that_is_no_http_is_refused(server, answer):
    server.routes["/odd"] = lambda handler: handler.wfile.write(answer)
    message = refusal(f"{server.url}/odd")
    assert "broke off or sent no valid answer" in message and "Try again" in message


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (404, "has no such picture (status 404). Check the address"),
        (403, "does not let us have it (status 403). Download it yourself"),
        (401, "does not let us have it (status 401). Download it yourself"),
        (429, "overloaded or out of order (status 429). Try again later"),
        (503, "overloaded or out of order (status 503). Try again later"),
        (206, "answered with status 206 and no picture. Check the address"),
        (304, "answered with status 304 and no picture. Check the address"),
        (302, "answered with status 302 and no picture. Check the address"),
    ],
)
def test_other_statuses_are_explained(server, status, part):
    server.routes["/x"] = lambda handler: handler.reply(status)
    message = refusal(f"{server.url}/x")
    assert message.startswith(f"The picture {server.url}/x could not be fetched: 127.0.0.1 ") and part in message


def test_compression_that_was_not_asked_for(server):
    bodies = {
        "/gzip": ("gzip", gzip.compress(BODY)),
        "/deflate": ("Deflate", zlib.compress(BODY)),
        "/bomb": ("gzip", gzip.compress(b"\0" * 5_000_000)),
        "/cut": ("gzip", gzip.compress(BODY)[:-12]),
        "/damaged": ("gzip", b"not gzip at all"),
        "/br": ("br", BODY),
    }
    for path, (encoding, body) in bodies.items():
        server.routes[path] = lambda handler, encoding=encoding, body=body: handler.reply(
            body=body, Content_Encoding=encoding
        )
    assert fetch_bytes(f"{server.url}/gzip") == fetch_bytes(f"{server.url}/deflate") == BODY
    assert "more than 100,000 bytes" in refusal(f"{server.url}/bomb", max_bytes=100_000)
    assert "broke off" in refusal(f"{server.url}/cut")
    assert "compressed answer is damaged" in refusal(f"{server.url}/damaged")
    assert "compressed it in a way that is not known" in refusal(f"{server.url}/br")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://a.example/x", "only addresses that start with http:// or https:// are read"),
        ("file:///etc/passwd", "only addresses that start with http:// or https:// are read"),
        ("a.example/x.png", "only addresses that start with http:// or https:// are read"),
        ("", "only addresses that start with http:// or https:// are read"),
        ("http://", "not a complete http(s) address, like https://example.com/cat.jpg"),
        ("http:///x", "not a complete http(s) address"),
        ("http://a..b/", "not a complete http(s) address"),
        (f"http://{'a' * 64}.example/", "not a complete http(s) address"),
        ("http://a b/", "not a complete http(s) address"),
        ("http://a%2eb/", "not a complete http(s) address"),
        ("http://a:b/", "not a complete http(s) address"),
        ("http://a:70000/", "not a complete http(s) address"),
        ("http://[::1/", "not a complete http(s) address"),
        ("http://[x::1]/", "not a complete http(s) address"),
        ("http://a.example\\@b.example/", "not a complete http(s) address"),
        ("http://a.example/x\r\nHost: b", "control characters. Copy the address anew"),
        ("http://a.exa\tmple/x", "control characters"),
        ("http://a.example/\0", "control characters"),
        ("http://a.example/\x85", "control characters"),
        ("http://a.example/\ud800", "control characters"),
    ],
)
def test_addresses_that_cannot_be_asked_for(monkeypatch, url, part):
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert part in refusal(url)


def forbidden(*arguments, **_):
    raise AssertionError(f"must not happen: {arguments}")


def test_an_unknown_host(server, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    message = refusal("http://no-such.example/cat.png")
    assert "the host no-such.example was not found. Check the spelling and the network" in message


def test_a_refused_connection(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        message = refusal(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert "127.0.0.1 refused the connection. Check the address" in message


def test_an_unreachable_network(server, monkeypatch):
    def fail(*_):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", fail)
    assert "could not be reached. Check the address and the network" in refusal(server.url)


def test_the_second_address_is_tried(server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        addresses = [("127.0.0.1", free.getsockname()[1]), ("127.0.0.1", server.server_port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address_of(*pair) for pair in addresses])
        server.routes["/"] = Handler.reply
        assert fetch_bytes("http://a.example/") == BODY


def test_tls_to_a_server_without_it(server):
    message = refusal(server.url.replace("http:", "https:"), timeout=5)
    assert "no secure connection to 127.0.0.1 was possible" in message and "Check the address" in message


def test_a_certificate_that_cannot_be_verified(server, monkeypatch):
    class Distrust:
        def wrap_socket(self, *_, **__):
            raise fetch.ssl.SSLCertVerificationError("self-signed certificate")

    monkeypatch.setattr(fetch.ssl, "create_default_context", Distrust)
    message = refusal(server.url.replace("http:", "https:"))
    assert "certificate of 127.0.0.1 could not be verified. Check this machine's clock" in message


class PlainContext:
    """Stands for TLS: notes the server name that would be verified and leaves the socket as it is."""

    names: list[str]

    def __init__(self) -> None:
        self.names = []

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> socket.socket:
        self.names.append(server_hostname)
        return sock


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_is_looked_up_once_and_the_checked_address_connected_to(server, monkeypatch, scheme):
    """A name whose second answer is an inner address (DNS rebinding) is never asked for that second answer."""
    answers = iter([PUBLIC, "127.0.0.1"])
    connected = []

    def connect(sock, address):
        connected.append(address)
        connect_here(sock, server)

    context = PlainContext()
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [address_of(next(answers), port)])
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(fetch.ssl, "create_default_context", lambda: context)
    server.routes["/cat.png"] = Handler.reply
    assert fetch_bytes(f"{scheme}://cats.example:8765/cat.png", public_only=True) == BODY
    assert connected == [(PUBLIC, 8765)] and list(answers) == ["127.0.0.1"]
    assert server.asked[0][1]["Host"] == "cats.example:8765"
    assert context.names == (["cats.example"] if scheme == "https" else [])


def test_only_the_public_ones_of_several_addresses_are_tried(server, monkeypatch):
    connected = []

    def connect(sock, address):
        connected.append(address[0])
        raise ConnectionRefusedError(111, "Connection refused")

    hosts = ["127.0.0.1", PUBLIC, "10.0.0.1", "1.1.1.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, port, **__: [address_of(host, port) for host in hosts])
    monkeypatch.setattr(socket.socket, "connect", connect)
    assert "refused the connection" in refusal("http://mixed.example/", public_only=True)
    assert connected == [PUBLIC, "1.1.1.1"]


INNER = """
    127.0.0.1 127.9.9.9 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.0.1
    169.254.169.254 100.64.0.1 192.0.0.1 192.0.0.9 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1
    224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.88.99.1 :: ::1
    ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:7f00:1 64:ff9b::7f00:1 64:ff9b::8.8.8.8 64:ff9b:1::1
    100::1 2001::1 2001:0:7f00:1:: 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1
    fc00::1 fd00:ec2::254 fe80::1 fe80::1%1 fec0::1 ff02::1 ff0e::1
    4000::1 5f00::1
"""


@pytest.mark.parametrize("address", INNER.split())
def test_inner_and_wrapped_addresses_are_not_public(address):
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses(address):
    assert is_public_address(address)


INNER_HOSTS = """
    127.0.0.1 localhost 10.0.0.1 192.168.1.1 169.254.169.254 0.0.0.0 [::1] [::]
    [::ffff:127.0.0.1] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::] [fe80::1] 2130706433 017700000001 0x7f000001
    0X7F.1 127.1 0177.0.0.1 127.0.0.1. 0x7f.0.0.0x1 00.0.0.0 1.2.3.4.5 134744072
    １２７.0.0.1 127。0。0。1
"""


@pytest.mark.parametrize("host", INNER_HOSTS.split())
def test_inner_hosts_are_refused_in_every_spelling(monkeypatch, host):
    monkeypatch.setattr(fetch, "_connect_first", forbidden)
    message = refusal(f"http://{host}/secret", public_only=True)
    assert "is not a public address, and only those may be fetched here" in message


def test_public_only_uses_no_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [address_of("127.0.0.1", port)])
    assert "not a public address" in refusal("http://cats.example/", public_only=True)
    assert not server.asked


def test_the_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://me:secret@"))
    server.routes["http://cats.example/a.png?x=1"] = Handler.reply
    assert fetch_bytes("http://cats.example/a.png?x=1") == BODY
    headers = server.asked[0][1]
    assert headers["Host"] == "cats.example" and headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.routes["/direct"] = Handler.reply
    assert fetch_bytes(f"{server.url}/direct") == BODY


def test_a_tunnel_through_the_proxy(server, monkeypatch):
    def tunnel(handler):
        handler.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        handler.close_connection = False  # the request follows on the same connection

    context = PlainContext()
    monkeypatch.setattr(fetch.ssl, "create_default_context", lambda: context)
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{server.server_port}")
    server.routes |= {"cats.example:443": tunnel, "/a.png": Handler.reply}
    assert fetch_bytes("https://cats.example/a.png") == BODY
    assert context.names == ["cats.example"] and server.asked[1][1]["Host"] == "cats.example"


def test_proxies_that_do_not_work_are_named(server, monkeypatch):
    advice = "Set HTTP_PROXY and HTTPS_PROXY to http://host:port, or unset them"
    server.routes["cats.example:443"] = lambda handler: handler.reply(407, b"")
    monkeypatch.setenv("https_proxy", server.url)
    assert f"the proxy 127.0.0.1 refused the connection (status 407). {advice}" in refusal("https://cats.example/")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{free.getsockname()[1]}")
        message = refusal("http://cats.example/")
    assert "could not be reached" in message and advice in message and "secret" not in message
    for setting, part in (("socks5://127.0.0.1:1", "not usable"), ("https://127.0.0.1:1", "not supported")):
        monkeypatch.setenv("http_proxy", setting)
        message = refusal("http://cats.example/")
        assert part in message and advice in message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@a.example:81/b/c.png?key=1#f", "https://a.example:81/b/c.png"),
        ("http://图.example/猫.png", "http://图.example/猫.png"),
        ("http://a.example/\x1b[31m", "http://a.example/?[31m"),
        ("http://me:pa/ss@a.example/", "at the given address"),
        ("http://[::1", "at the given address"),
        ("http://a.example/" + "x" * 500, "http://a.example/" + "x" * 182 + "…"),
    ],
)
def test_what_is_shown_of_an_address(url, shown):
    assert display_url(url) == shown

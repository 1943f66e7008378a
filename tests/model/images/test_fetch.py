"""Downloads are bounded in time and size, directly or through a proxy; errors explain the reason."""

import gzip
import random
import re
import socket
import time
import zlib
from collections.abc import Callable
from urllib.parse import quote

import pytest

from model.errors import ImageError
from model.images import url_fetch as fetch
from model.images.url_fetch import fetch_bytes
from tests.helpers.web_server import BODY, PUBLIC, Handler, PlainContext, address_of, connect_here, rejection_message


def redirect(location: str, status: int = 302) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(status, b"moved", Location=location)


def test_an_image_is_fetched(server):
    server.routes["/cat.png"] = Handler.reply
    assert fetch_bytes(f"{server.url}/cat.png#left") == BODY
    assert fetch_bytes(f"  {server.url.upper()}/cat.png ") == BODY
    headers = server.requests[0][1]
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


def test_a_password_is_sent_and_never_displayed(server):
    server.routes["/cat.png"] = Handler.reply
    port = server.server_port
    assert fetch_bytes(f"http://me:s%40cret@127.0.0.1:{port}/cat.png") == BODY
    assert server.requests[0][1]["Authorization"] == "Basic bWU6c0BjcmV0"
    for url in (
        f"http://me:secret@127.0.0.1:{port}/none?key=secret",
        "ftp://me:secret@127.0.0.1/",
        "http://me:secret@/x",
        "http://me:se/secret@127.0.0.1/",
        "http://me:secret@[127.0.0.1/",
        f"http://me:secret@127.0.0.1:{port}0000/",
    ):
        message = rejection_message(url)
        assert "secret" not in message and "me:" not in message


def test_redirects_are_followed(server):
    server.routes |= {
        "/1": redirect(f"{server.url}/2", 301),
        "/2": redirect("3?x=1", 307),
        "/3?x=1": redirect("/%E5%9B%BE/4", 308),
        quote("/图/4"): Handler.reply,
    }
    assert fetch_bytes(f"{server.url}/1", max_redirects=3) == BODY
    assert "redirected more than 2 times" in rejection_message(f"{server.url}/1", max_redirects=2)


def test_a_redirect_in_raw_utf8(server):
    def answer(handler):
        raw = b"HTTP/1.1 302 Found\r\nLocation: /\xe7\x8c\xab.png\r\nContent-Length: 0\r\n\r\n"
        handler.wfile.write(raw)

    server.routes |= {"/1": answer, "/%E7%8C%AB.png": Handler.reply}
    assert fetch_bytes(f"{server.url}/1") == BODY


def test_a_redirect_loop_ends(server):
    server.routes |= {"/a": redirect("/b"), "/b": redirect("/a")}
    message = rejection_message(f"{server.url}/a")
    assert "redirected more than 5 times" in message and "Check the address" in message
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("file:///etc/passwd", "only addresses that start with http:// or https://"),
        ("ftp://127.0.0.1/x", "only addresses that start with http:// or https://"),
        ("http://[broken/", "redirects to an invalid address"),
        ("https:///", "not a complete http(s) address"),
    ],
)
def test_invalid_redirects_are_rejected(server, location, part):
    server.routes["/a"] = redirect(location)
    assert part in rejection_message(f"{server.url}/a")


def test_a_redirect_to_an_internal_address_is_rejected(server, monkeypatch):
    """The first host is public by its name; the redirect leads to an internal address."""
    monkeypatch.setattr(socket.socket, "connect", lambda self, _: connect_here(self, server))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [address_of(host, port)])
    server.routes["/a"] = redirect("http://169.254.169.254/latest")
    message = rejection_message(f"http://{PUBLIC}/a", public_only=True)
    assert "169.254.169.254 is not a public address" in message
    assert len(server.requests) == 1


def test_a_redirect_to_an_unlisted_port_is_rejected(server, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda self, _: connect_here(self, server))
    server.routes |= {"/a": redirect(f"http://{PUBLIC}:6379/b"), "/b": Handler.reply}
    assert "port 6379" in rejection_message(f"http://{PUBLIC}/a", public_only=True)
    assert len(server.requests) == 1
    assert fetch_bytes(f"http://{PUBLIC}/a", public_only=True, ports=(6379,)) == BODY


def test_too_many_bytes_are_rejected(server):
    sent = []

    def endless(handler):
        if handler.path == "/negative":
            handler.reply(body=b"-1\r\n", Content_Length="", Transfer_Encoding="chunked")
        else:
            handler.reply(Content_Length="")
        while not handler.server.over.is_set():
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    server.routes |= {
        "/declared": lambda handler: handler.reply(body=b"", Content_Length="99999999999"),
        "/endless": endless,
        "/negative": endless,
        "/exact": Handler.reply,
    }
    for path in ("/declared", "/endless"):
        message = rejection_message(server.url + path, max_bytes=1000)
        assert "more than 1,000 bytes" in message and "Choose a smaller version" in message
    assert "sent an invalid response" in rejection_message(f"{server.url}/negative", max_bytes=1000, timeout=3)
    assert sum(sent) < 50_000_000
    assert fetch_bytes(f"{server.url}/exact", max_bytes=len(BODY)) == BODY
    assert "bytes" in rejection_message(f"{server.url}/exact", max_bytes=len(BODY) - 1)


@pytest.mark.parametrize("stage", ["silence", "status", "headers", "body", "chunks"])
def test_a_slow_server_times_out(server, stage):
    def answer(handler):
        if stage == "body":
            handler.reply(body=b"", Content_Length="1000000")
        elif stage == "chunks":
            handler.reply(body=b"", Content_Length="", Transfer_Encoding="chunked")
        elif stage == "headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        if stage == "silence":
            handler.server.over.wait()
        else:
            handler.drip(lambda: b"1\r\nx\r\n" if stage == "chunks" else b"1")

    server.routes["/slow"] = answer
    message = rejection_message(f"{server.url}/slow", timeout=0.4)  # the server never ends first
    assert "127.0.0.1 did not send it within 0.4 seconds" in message and "Try again later" in message


def test_redirects_share_one_timeout(server):
    def answer(handler):
        time.sleep(0.1)
        redirect("/again")(handler)

    server.routes["/again"] = answer
    assert "within 0.4 seconds" in rejection_message(f"{server.url}/again", timeout=0.4, max_redirects=10**6)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_truncated_body_is_rejected(server, chunked):
    def answer(handler):
        if chunked:
            handler.reply(body=b"ff\r\nabc", Content_Length="", Transfer_Encoding="chunked")
        else:
            handler.reply(Content_Length="5000")

    server.routes["/cut"] = answer
    message = rejection_message(f"{server.url}/cut")
    assert "127.0.0.1 closed the connection" in message and "Try again" in message


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, b"\0" * 70000]
)
def test_an_invalid_http_response_is_rejected(server, answer):
    server.routes["/odd"] = lambda handler: handler.wfile.write(answer)
    message = rejection_message(f"{server.url}/odd")
    assert "closed the connection or sent an invalid response" in message and "Try again" in message


@pytest.mark.parametrize("size", ["-1", "-2", "-ff", "-10000000000000000000000", "x", "", "1_0_", "0x"])
def test_a_chunk_without_a_valid_size_is_rejected(server, size):
    server.routes["/odd"] = lambda handler: handler.reply(
        body=f"{size}\r\n".encode() + b"x" * 1000, Content_Length="", Transfer_Encoding="chunked"
    )
    assert "sent an invalid response" in rejection_message(f"{server.url}/odd")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n3\r\nfgh\r\n0\r\nX: y\r\n\r\n"
SENT = (
    CHUNKED,
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Encoding: identity\r\n\r\nabcdefgh",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://a.example:80/x%20y?z\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"abcdefgh"),
)


@pytest.mark.parametrize("seed", range(4))
def test_every_invalid_response_raises_an_image_error(monkeypatch, seed):
    """Fuzz responses: replace, remove and repeat bytes, and insert odd numbers."""
    draw = random.Random(seed)
    odd = [b"-1", b"-", b"\r\n", b"\0", b"\xff", b"99999999999999999999", b"9" * 5000, b":", b" ", b"\x1b[31m", b"["]

    def open_socket(*_):
        data = bytearray(draw.choice(SENT))
        for _ in range(draw.randrange(1, 4)):
            ends = [match.end() for match in re.finditer(b"\r\n|: ", data)]
            offset = draw.choice([draw.randrange(len(data) + 1), draw.choice(ends or [0])])
            data[offset : offset + draw.randrange(4)] = draw.choice(
                [*odd, bytes([draw.randrange(256)]), bytes(data[:20])]
            )
        here, there = socket.socketpair()
        there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        sockets.append(there)
        return here

    monkeypatch.setattr(fetch, "open_socket", open_socket)
    refused = 0
    for _ in range(300):
        sockets: list[socket.socket] = []
        try:
            assert len(fetch_bytes("http://a.example/", public_only=True, max_redirects=1)) < 20_000
        except ImageError as error:
            refused += 1
            assert str(error).isprintable()
        finally:
            for sock in sockets:
                sock.close()
    assert 0 < refused < 300


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (404, "has no such image (status 404). Check the address"),
        (403, "denies access (status 403). Download the image yourself"),
        (401, "denies access (status 401). Download the image yourself"),
        (429, "overloaded or has an error (status 429). Try again later"),
        (503, "overloaded or has an error (status 503). Try again later"),
        (206, "responded with status 206 and no image. Check the address"),
        (304, "responded with status 304 and no image. Check the address"),
        (302, "responded with status 302 and no image. Check the address"),
    ],
)
def test_other_statuses_are_explained(server, status, part):
    server.routes["/x"] = lambda handler: handler.reply(status)
    message = rejection_message(f"{server.url}/x")
    assert message.startswith(f"The image {server.url}/x could not be fetched: 127.0.0.1 ") and part in message


def test_unrequested_compression(server):
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
    assert "more than 100,000 bytes" in rejection_message(f"{server.url}/bomb", max_bytes=100_000)
    assert "closed the connection" in rejection_message(f"{server.url}/cut")
    assert "compressed response is damaged" in rejection_message(f"{server.url}/damaged")
    assert "unknown Content-Encoding" in rejection_message(f"{server.url}/br")


def test_tls_to_a_plain_http_server(server):
    message = rejection_message(server.url.replace("http:", "https:"), timeout=5)
    assert "no secure connection to 127.0.0.1 was possible" in message and "Check the address" in message


def test_a_certificate_that_cannot_be_verified(server, monkeypatch):
    class Distrust:
        def wrap_socket(self, *_, **__):
            raise fetch.ssl.SSLCertVerificationError("self-signed certificate")

    monkeypatch.setattr(fetch.ssl, "create_default_context", Distrust)
    message = rejection_message(server.url.replace("http:", "https:"))
    assert "certificate of 127.0.0.1 could not be verified. Check this machine's clock" in message


def test_public_only_uses_no_proxy(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [address_of("127.0.0.1", port)])
    assert "not a public address" in rejection_message("http://cats.example/", public_only=True)
    assert not server.requests


def test_the_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://me:secret@"))
    server.routes["http://cats.example/a.png?x=1"] = Handler.reply
    assert fetch_bytes("http://cats.example/a.png?x=1") == BODY
    headers = server.requests[0][1]
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
    assert context.names == ["cats.example"] and server.requests[1][1]["Host"] == "cats.example"


def test_broken_proxies_are_named_in_the_error(server, monkeypatch):
    advice = "Set HTTP_PROXY and HTTPS_PROXY to http://host:port, or unset them"
    server.routes["cats.example:443"] = lambda handler: handler.reply(407, b"")
    monkeypatch.setenv("https_proxy", server.url)
    assert f"the proxy 127.0.0.1 refused the connection (status 407). {advice}" in rejection_message(
        "https://cats.example/"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{free.getsockname()[1]}")
        message = rejection_message("http://cats.example/")
    assert "could not be reached" in message and advice in message and "secret" not in message
    for setting, part in (("socks5://127.0.0.1:1", "invalid"), ("https://127.0.0.1:1", "not supported")):
        monkeypatch.setenv("http_proxy", setting)
        message = rejection_message("http://cats.example/")
        assert part in message and advice in message

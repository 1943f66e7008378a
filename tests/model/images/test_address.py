"""URLs are validated and resolved safely, optionally only to public addresses; errors explain the reason."""

import socket
import threading
from urllib.parse import quote

import pytest

from model.images import url_fetch as address, url_fetch as fetch
from model.images.url_fetch import display_url, fetch_bytes, is_public_address
from tests.helpers.web_server import (
    BODY,
    PUBLIC,
    Handler,
    PlainContext,
    address_of,
    connect_here,
    forbidden,
    rejection_message,
)


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
    assert names == [asked] and server.requests[0][1]["Host"] == f"{asked}:{server.server_port}"


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
def test_displayed_urls_hide_secrets(url, shown):
    assert display_url(url) == shown


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://a.example/x", "only addresses that start with http:// or https:// are supported"),
        ("file:///etc/passwd", "only addresses that start with http:// or https:// are supported"),
        ("a.example/x.png", "only addresses that start with http:// or https:// are supported"),
        ("", "only addresses that start with http:// or https:// are supported"),
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
        ("http://a.example/x\r\nHost: b", "control characters. Copy the address again"),
        ("http://a.exa\tmple/x", "control characters"),
        ("http://a.example/\0", "control characters"),
        ("http://a.example/\x85", "control characters"),
        ("http://a.example/\ud800", "control characters"),
    ],
)
def test_invalid_urls_are_rejected(monkeypatch, url, part):
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert part in rejection_message(url)


def test_a_slow_resolver_times_out(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20))
    assert "within 0.2 seconds" in rejection_message("http://a.example/", timeout=0.2, public_only=True)
    over.set()


def test_an_unknown_host(server, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    message = rejection_message("http://no-such.example/cat.png")
    assert "the host no-such.example was not found. Check the spelling and the network" in message


def test_a_refused_connection(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        message = rejection_message(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert "127.0.0.1 refused the connection. Check the address" in message


def test_an_unreachable_network(server, monkeypatch):
    def fail(*_):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", fail)
    assert "could not be reached. Check the address and the network" in rejection_message(server.url)


def test_the_second_address_is_tried(server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        addresses = [("127.0.0.1", free.getsockname()[1]), ("127.0.0.1", server.server_port)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address_of(*pair) for pair in addresses])
        server.routes["/"] = Handler.reply
        assert fetch_bytes("http://a.example/") == BODY


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_is_resolved_once_and_the_checked_address_is_used(server, monkeypatch, scheme):
    """DNS rebinding: a name whose second resolution is an internal address is resolved only once."""
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
    assert fetch_bytes(f"{scheme}://cats.example:8765/cat.png", public_only=True, ports=(8765,)) == BODY
    assert connected == [(PUBLIC, 8765)] and list(answers) == ["127.0.0.1"]
    assert server.requests[0][1]["Host"] == "cats.example:8765"
    assert context.names == (["cats.example"] if scheme == "https" else [])


def test_only_public_addresses_are_tried(server, monkeypatch):
    connected = []

    def connect(sock, address):
        connected.append(address[0])
        raise ConnectionRefusedError(111, "Connection refused")

    hosts = ["127.0.0.1", PUBLIC, "10.0.0.1", "1.1.1.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, port, **__: [address_of(host, port) for host in hosts])
    monkeypatch.setattr(socket.socket, "connect", connect)
    assert "refused the connection" in rejection_message("http://mixed.example/", public_only=True)
    assert connected == [PUBLIC, "1.1.1.1"]


INTERNAL = """
    127.0.0.1 127.9.9.9 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.0.1
    169.254.169.254 100.64.0.1 192.0.0.1 192.0.0.9 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1
    224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.88.99.1 :: ::1
    ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:7f00:1 64:ff9b::7f00:1 64:ff9b::8.8.8.8 64:ff9b:1::1
    100::1 2001::1 2001:0:7f00:1:: 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1
    168.63.129.16 161.26.0.10 166.9.1.1 192.80.8.124 100.100.100.200 192.0.0.192 169.254.170.2
    ::ffff:168.63.129.16 64:ff9b::168.63.129.16 64:ff9b::a9fe:a9fe 64:ff9b:1::a9fe:a9fe ::168.63.129.16
    fd20:ce::254 2002:a83f:8110::
    fc00::1 fd00:ec2::254 fe80::1 fe80::1%1 fec0::1 ff02::1 ff0e::1
    4000::1 5f00::1
"""


@pytest.mark.parametrize("address", INTERNAL.split())
def test_internal_and_embedded_addresses_are_not_public(address):
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", PUBLIC, "172.32.0.1", "100.128.0.1", "168.63.129.17", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses(address):
    assert is_public_address(address)


INTERNAL_HOSTS = """
    127.0.0.1 localhost 10.0.0.1 192.168.1.1 169.254.169.254 0.0.0.0 [::1] [::]
    168.63.129.16 168.63.33040 [fd00:ec2::254] [64:ff9b::a83f:8110] [::ffff:168.63.129.16]
    [::ffff:127.0.0.1] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::] [fe80::1] 2130706433 017700000001 0x7f000001
    0X7F.1 127.1 0177.0.0.1 127.0.0.1. 0x7f.0.0.0x1 00.0.0.0 1.2.3.4.5 134744072
    １２７.0.0.1 127。0。0。1
"""


@pytest.mark.parametrize("host", INTERNAL_HOSTS.split())
def test_internal_hosts_are_rejected_in_every_notation(monkeypatch, host):
    monkeypatch.setattr(address, "_connect_first", forbidden)
    message = rejection_message(f"http://{host}/secret", public_only=True)
    assert "is not a public address, and only those are allowed here" in message


@pytest.mark.parametrize("port", [1, 22, 79, 6379, 8080, 65535])
def test_a_server_connects_only_to_listed_ports(monkeypatch, port):
    monkeypatch.setattr(address, "_connect_first", forbidden)
    for scheme in ("http", "https"):
        assert f"port {port}" in rejection_message(f"{scheme}://{PUBLIC}:{port}/", public_only=True, ports=(8000,))


def test_default_and_listed_ports_are_allowed(server, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda sock, _: connect_here(sock, server))
    server.routes["/"] = Handler.reply
    for url in (f"http://{PUBLIC}/", f"http://{PUBLIC}:80/", f"http://{PUBLIC}:443/", f"http://{PUBLIC}:8000/"):
        assert fetch_bytes(url, public_only=True, ports=(8000,)) == BODY

"""The number of connections is limited, and the headers of each request have a timeout."""

import json
import logging
import socket
from contextlib import ExitStack

import pytest

from model import SettingError
from tests.helpers.api_server import SteppedModel, serving, wait_until
from visualglm.connections import ConnectionLimits
from visualglm.server import Settings
from visualglm.server.request_log import JsonFormatter, RateLimitFilter

REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=20)


def read_answer(sock: socket.socket) -> bytes:
    answer = b""
    while b'"ok"}' not in answer:
        part = sock.recv(9999)
        assert part, answer
        answer += part
    return answer


@pytest.mark.parametrize("rest", [b"", b"POST / HT", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_the_headers_of_a_second_request_have_a_deadline_too(rest, monkeypatch):
    monkeypatch.setattr("visualglm.connections.HEADER_TIMEOUT_S", 0.2)
    with serving(SteppedModel(free=True)) as client, connect(client) as sock:
        sock.sendall(REQUEST)
        assert b"200 OK" in read_answer(sock)
        sock.sendall(rest)
        assert sock.recv(9999) == b""
        wait_until(lambda: client.server.limits.total == 0)


def test_a_slow_header_does_not_move_the_deadline(monkeypatch):
    monkeypatch.setattr("visualglm.connections.HEADER_TIMEOUT_S", 0.3)
    with serving(SteppedModel(free=True)) as client, connect(client) as sock:
        sock.sendall(REQUEST)
        read_answer(sock)
        sock.settimeout(0.02)
        for _ in range(1000):
            try:
                sock.sendall(b"G" if _ == 0 else b"E")
                if sock.recv(9999) == b"":
                    return
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return
        raise AssertionError("the connection stayed open")


def test_the_deadline_does_not_end_a_request_that_is_answered(monkeypatch):
    monkeypatch.setattr("visualglm.connections.HEADER_TIMEOUT_S", 0.1)
    model = SteppedModel(length=1)
    with serving(model) as client, connect(client) as sock:
        body = json.dumps({"text": "hello"}).encode()
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(9999)
        model.step()
        sock.settimeout(20)
        assert b"200 OK" in sock.recv(9999)


def test_too_many_connections_get_503_and_the_server_continues():
    with serving(SteppedModel(free=True), max_connections=5) as client, ExitStack() as stack:
        opened = [stack.enter_context(connect(client)) for _ in range(5)]
        wait_until(lambda: client.server.limits.total == 5)
        with connect(client) as refused:
            assert refused.recv(9999).startswith(b"HTTP/1.1 503")
        opened[0].sendall(REQUEST)
        assert b"200 OK" in read_answer(opened[0])
        opened[1].close()
        wait_until(lambda: client.server.limits.total == 4)
        assert client.get("/health").status_code == 200
    wait_until(lambda: client.server.limits.total == 0)


def test_one_client_cannot_take_all_connections():
    limits = ConnectionLimits(100, 3, trusted=("10.0.0.1", "192.168.0.0/24"))
    assert [limits.admit("203.0.113.9") for _ in range(4)] == [True, True, True, False]
    assert limits.admit("203.0.113.10")
    limits.release("203.0.113.9")
    assert limits.admit("203.0.113.9")
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.1", "192.168.0.77", None):
        assert all(limits.admit(address) for _ in range(5))
    assert limits.total == 39
    assert limits.rejected == 1


def test_ipv6_clients_are_counted_by_network():
    limits = ConnectionLimits(100, 1)
    assert limits.admit("2001:db8::1")
    assert not limits.admit("2001:db8::2")
    assert limits.admit("2001:db8:0:1::1")
    assert limits.admit("fe80::1%eth0")


def test_limits_are_settings():
    settings = Settings(trusted_proxies=("10.0.0.0/8", "::1"))
    assert settings.max_connections >= settings.max_client_connections == 256
    with pytest.raises(SettingError, match="--trusted-proxy"):
        Settings(trusted_proxies=("proxy.example",))


def test_the_rate_of_log_records_is_limited_and_the_rest_is_counted():
    flood = RateLimitFilter(max_records=3, seconds=60)

    def record() -> logging.LogRecord:
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, "socket.accept() out of system resource", None, None)

    assert [flood.filter(record()) for _ in range(10)] == [True] * 3 + [False] * 7
    flood.started -= 60
    late = record()
    assert flood.filter(late)
    assert json.loads(JsonFormatter(False).format(late))["left_out"] == 7

"""A web server with configurable responses, and other helpers for the tests of URL fetching."""

import _socket
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model.errors import ImageError
from model.images.url_fetch import fetch_bytes

BODY = b"\x89PNG and so on" * 100
PUBLIC = "93.184.216.34"


class Handler(BaseHTTPRequestHandler):
    """Calls the function of the path in the server's `routes`, and records each request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
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
        """Send `data()` every 20 ms until the client disconnects or the test ends."""
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
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_) -> None:  # many tests disconnect early on purpose
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, in an environment without proxy settings."""
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


def rejection_message(url: str, **options) -> str:
    """Return the error message for a `url` that is rejected."""
    with pytest.raises(ImageError) as error:
        fetch_bytes(url, **options)
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    return str(error.value)


def address_of(host: str, port: int) -> tuple:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))


def connect_here(sock: socket.socket, server: Server) -> None:
    _socket.socket.connect(sock, ("127.0.0.1", server.server_port))


class PlainContext:
    """Replaces the TLS context: records the server name to verify, and returns the socket without encryption."""

    names: list[str]

    def __init__(self) -> None:
        self.names = []

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> socket.socket:
        self.names.append(server_hostname)
        return sock


def forbidden(*arguments, **_):
    raise AssertionError(f"must not happen: {arguments}")

"""A cheap client for many requests side by side: one thread, bare sockets, answers taken apart when they are over.

As a process of its own, which shares nothing with the server but the machine, it reads lines of JSON from stdin, each a
list of bodies to post at once, and writes a line for each: what came of them, and what they cost.

python -m benchmarks.parts.http_client 8080
"""

import asyncio
import http.client
import io
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

PATH = "/v1/chat/completions"
EVENT = b"data: "


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    Attributes:
        status: of the response; 0 where none came.
        first_s, total_s: seconds from the connection to the first of the response, and to the end.
        longest_wait_s: the longest time in which nothing new came, once something had.
        events: server-sent events; 0 where the answer came whole.
        tokens: of the answer, as the server counts them; 0 where it does not say.
        is_complete: whether the response has its end.
        code: what an error is called.
    """

    status: int
    first_s: float
    total_s: float
    longest_wait_s: float = 0.0
    events: int = 0
    tokens: int = 0
    is_complete: bool = False
    code: str | None = None


class Exchange(asyncio.Protocol):
    """One request on a connection of its own, and what comes back, with the times.

    Args:
        request: its bytes.
    """

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.started = time.perf_counter()
        self.times: list[float] = []
        self.parts: list[bytes] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        cast(asyncio.Transport, transport).write(self.request)

    def data_received(self, data: bytes) -> None:
        """Keep what comes."""
        self.times.append(time.perf_counter())
        self.parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if not self.ended.done():
            self.ended.set_result(None)

    def outcome(self) -> Outcome:
        """Take the response apart."""
        total_s = time.perf_counter() - self.started
        if not self.times:
            return Outcome(0, total_s, total_s)
        response = http.client.HTTPResponse(cast(Any, Received(b"".join(self.parts))))
        try:
            response.begin()
            body, is_complete = response.read(), True
        except (http.client.HTTPException, ConnectionError) as error:
            body, is_complete = getattr(error, "partial", b""), False
        waits = (later - earlier for earlier, later in itertools.pairwise(self.times))
        return Outcome(
            response.status,
            self.times[0] - self.started,
            total_s,
            max(waits, default=0.0),
            body.count(EVENT),
            count_tokens(body) if is_complete else 0,
            is_complete,
            error_code(body) if response.status >= 400 else None,
        )


class Received:
    """Received bytes as http.client wants them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _: str) -> io.BytesIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.data)


def count_tokens(body: bytes) -> int:
    """Return the tokens of an answer, whole or streamed, as its `usage` counts them; 0 where there is none."""
    lines = body.replace(EVENT, b"").split(b"\n\n")
    counted = [line for line in lines if b'"completion_tokens"' in line]
    return int(json.loads(counted[-1])["usage"]["completion_tokens"]) if counted else 0


def error_code(body: bytes) -> str | None:
    """Return the error code in a response body, None if there is none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):  # no body, or the native route's
        return None


def to_request(body: bytes, path: str = PATH) -> bytes:
    """Return the bytes of a POST on a connection that ends with it."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def ask(port: int, request: bytes, patience_s: float | None = None) -> Outcome:
    """Send one request, and return what came of it; the connection is closed after `patience_s` if given."""
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_connection(lambda: Exchange(request), "127.0.0.1", port)
    try:
        await asyncio.wait_for(exchange.ended, patience_s)
    except TimeoutError:
        transport.abort()
    return exchange.outcome()


async def ask_all(port: int, requests: list[bytes]) -> list[Outcome]:
    """Send requests at the same moment, and return what came of each."""
    return await asyncio.gather(*(ask(port, one) for one in requests))


def main() -> None:
    """Do as the lines of stdin say."""
    port = int(sys.argv[1])
    for line in sys.stdin:
        requests = [to_request(json.dumps(body).encode()) for body in json.loads(line)]
        started, spent = time.perf_counter(), time.process_time()
        outcomes = asyncio.run(ask_all(port, requests))
        costs = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - spent}
        print(json.dumps({**costs, "outcomes": [asdict(one) for one in outcomes]}), flush=True)


if __name__ == "__main__":
    main()

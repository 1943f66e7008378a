"""A client with low overhead for many concurrent requests: one thread, raw sockets; responses are parsed at the end.

Run as a process, it reads lines of JSON from stdin, each a list of request bodies to send at once. For each line it
writes a line of JSON: the results, and the CPU time of the client.

python -m benchmarks.parts.http_client 8080
"""

import asyncio
import base64
import http.client
import io
import itertools
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

from PIL import Image

PATH = "/v1/chat/completions"
EVENT = b"data: "
QUESTION = "Describe the image."
MIN_LENGTH = 2048  # minimum number of tokens: only max_tokens ends the answer


@dataclass(frozen=True)
class RequestResult:
    """The result of one request.

    Attributes:
        status: status code of the response; 0 if there was none.
        first_s, total_s: seconds from the connection to the first byte of the response, and to its end.
        longest_wait_s: longest gap between received data.
        events: number of server-sent events; 0 if not streamed.
        tokens: tokens of the answer, as reported by the server; 0 if not reported.
        is_complete: whether the response is complete.
        code: code of an API error.
    """

    status: int
    first_s: float
    total_s: float
    longest_wait_s: float = 0.0
    events: int = 0
    tokens: int = 0
    is_complete: bool = False
    code: str | None = None


class ClientProtocol(asyncio.Protocol):
    """One request on its own connection, with the received data and times.

    Args:
        request: bytes of the request.
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
        """Store the data and its time."""
        self.times.append(time.perf_counter())
        self.parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Mark the response as ended."""
        if not self.ended.done():
            self.ended.set_result(None)

    def result(self) -> RequestResult:
        """Parse the response."""
        total_s = time.perf_counter() - self.started
        if not self.times:
            return RequestResult(0, total_s, total_s)
        response = http.client.HTTPResponse(cast(Any, BytesSocket(b"".join(self.parts))))
        try:
            response.begin()
            body, is_complete = response.read(), True
        except (http.client.HTTPException, ConnectionError) as error:
            body, is_complete = getattr(error, "partial", b""), False
        waits = (later - earlier for earlier, later in itertools.pairwise(self.times))
        return RequestResult(
            response.status,
            self.times[0] - self.started,
            total_s,
            max(waits, default=0.0),
            body.count(EVENT),
            count_tokens(body) if is_complete else 0,
            is_complete,
            error_code(body) if response.status >= 400 else None,
        )


class BytesSocket:
    """Received bytes as the socket that http.client expects."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _: str) -> io.BytesIO:
        """Return the bytes as a file."""
        return io.BytesIO(self.data)


def count_tokens(body: bytes) -> int:
    """Return the tokens of an answer, streamed or not, from its `usage`; 0 if there is none."""
    lines = body.replace(EVENT, b"").split(b"\n\n")
    counted = [line for line in lines if b'"completion_tokens"' in line]
    return int(json.loads(counted[-1])["usage"]["completion_tokens"]) if counted else 0


def error_code(body: bytes) -> str | None:
    """Return the error code in a response body, or None."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):  # no body, or an error of the native route
        return None


def random_png(size: int, seed: int) -> bytes:
    """Return an image of size x size random pixels as a PNG file."""
    file = io.BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(seed).randbytes(3 * size**2)).save(file, "PNG")
    return file.getvalue()


def data_url(png: bytes) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def completion(
    model: str, tokens: int, seed: int, image: bytes | None = None, *, stream: bool, text: str = QUESTION
) -> dict[str, Any]:
    """Return the body of a request for an answer of exactly `tokens` tokens, with usage."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        content.append({"type": "image_url", "image_url": {"url": data_url(image)}})
    body = {"model": model, "messages": [{"role": "user", "content": content}], "seed": seed}
    body |= {"max_tokens": tokens, "min_length": MIN_LENGTH, "stream": stream}
    return {**body, "stream_options": {"include_usage": True}} if stream else body


def to_request(body: bytes, path: str = PATH) -> bytes:
    """Return the bytes of a POST request with `Connection: close`."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def send(port: int, request: bytes, disconnect_after_s: float | None = None) -> RequestResult:
    """Send one request, and return its result; with `disconnect_after_s`, disconnect early."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(lambda: ClientProtocol(request), "127.0.0.1", port)
    try:
        await asyncio.wait_for(protocol.ended, disconnect_after_s)
    except TimeoutError:
        transport.abort()
    return protocol.result()


async def send_all(port: int, requests: list[bytes]) -> list[RequestResult]:
    """Send requests at the same moment; return their results."""
    return await asyncio.gather(*(send(port, one) for one in requests))


def main() -> None:
    """Process the lines of stdin."""
    port = int(sys.argv[1])
    for line in sys.stdin:
        requests = [to_request(json.dumps(body).encode()) for body in json.loads(line)]
        started, spent = time.perf_counter(), time.process_time()
        outcomes = asyncio.run(send_all(port, requests))
        costs = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - spent}
        print(json.dumps({**costs, "outcomes": [asdict(one) for one in outcomes]}), flush=True)


if __name__ == "__main__":
    main()

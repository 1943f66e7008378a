"""Clients that send costly requests to a server; runs as a subprocess.

python -m tests.stress.attackers PORT MODEL CLIENTS SECONDS

Finally writes a line of JSON: the count of each status, and each request that was answered by a 5xx other than 503.
"""

import asyncio
import base64
import collections
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.parts.http_client import send, to_request
from tests.helpers.image_files import costly_files

MIB = 2**20
DISCONNECT_RATE = 0.1  # share of requests whose client disconnects at a random time
RESPONSE_TIMEOUT_S = 400.0  # longer than the server's own timeout
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n"


def costly_bodies() -> dict[str, bytes]:
    """Return bodies that are expensive to parse or to store, for either route."""
    return {
        "zeros, 1 MiB": b'{"text": "a", "history": [' + b"0," * (MIB // 2) + b"0]}",
        "zeros within the limit": b'{"text": "a", "history": [' + b"0," * 49_000 + b"0]}",
        "lists, 24 MiB": b'{"text": "a", "history": [' + b"[]," * (8 * MIB - 30) + b"[]]}",
        "keys": b'{"text": "a"' + b',"a":0' * 20_000 + b"}",
        "text, 24 MiB": b'{"text": "' + b"a" * (24 * MIB - 100) + b'"}',
        "Chinese text, 24 MiB": b'{"text": "' + "图".encode() * (8 * MIB - 100) + b'"}',
        "escapes, 24 MiB": b'{"text": "' + b"\\u0041" * (4 * MIB - 100) + b'"}',
        "base64 with blanks, 24 MiB": b'{"text": "a", "image": "' + b"AA " * (8 * MIB - 100) + b'"}',
        "digits, 24 MiB": b'{"text": ' + b"1" * (24 * MIB - 100) + b"}",
        "nested": b"[" * 40_000,
    }


def costly_requests(model: str) -> dict[str, bytes]:
    """Return complete requests by name: each costly body and each costly image, to both routes."""
    requests = {}
    for name, body in costly_bodies().items():
        requests[name] = to_request(body, "/")
        requests[f"{name}, /v1"] = to_request(body)
    for name, data in costly_files().items():
        text = base64.b64encode(data).decode()
        requests[name] = to_request(
            json.dumps({"text": "What is it?", "image": text, "max_new_tokens": 8}).encode(), "/"
        )
        parts = [{"type": "image_url", "image_url": {"url": f"data:;base64,{text}"}}, {"type": "text", "text": "What?"}]
        body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
        requests[f"{name}, /v1"] = to_request(json.dumps(body).encode())
    return requests


class Attackers:
    """Clients that attack until the time is over.

    Args:
        port: port of the server.
        model: name of its model.
    """

    def __init__(self, port: int, model: str) -> None:
        self.port = port
        self.requests = costly_requests(model)
        self.rng = random.Random(0)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.failures: list[str] = []

    async def attack(self, end: float) -> None:
        """Attack until the time is over."""
        slow: list[Callable[[float], Awaitable[None]]] = [
            self.hold_silent_connection,
            self.drip_headers,
            self.drip_body,
        ]
        while time.monotonic() < end:
            with contextlib.suppress(OSError):  # rejected, or closed while sending
                if self.rng.random() < 0.15:
                    await self.rng.choice(slow)(end)
                else:
                    await self.send_costly()
            await asyncio.sleep(0.01)

    async def send_costly(self) -> None:
        """Send one costly request; some clients disconnect before its answer."""
        name = self.rng.choice(list(self.requests))
        disconnect_after_s = self.rng.uniform(0, 3) if self.rng.random() < DISCONNECT_RATE else RESPONSE_TIMEOUT_S
        result = await send(self.port, self.requests[name], disconnect_after_s)
        self.statuses[result.status] += 1
        if result.status >= 500 and result.status != 503:
            self.failures.append(f"{name}: {result.status} {result.code}")

    async def hold_silent_connection(self, end: float) -> None:
        """Open a connection and send nothing until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await self._wait_for_the_end(reader, end)
        writer.close()

    async def drip_headers(self, end: float) -> None:
        """Send a request, then the headers of a second one byte by byte."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nX: ")
        await self._drip(reader, writer, end)

    async def drip_body(self, end: float) -> None:
        """Send most of a large body, then the rest byte by byte."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HEAD + bytes(self.rng.randrange(10 * MIB)))
        await self._drip(reader, writer, end)

    async def _drip(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: float) -> None:
        closed = asyncio.ensure_future(self._wait_for_the_end(reader, end))
        while not closed.done() and time.monotonic() < end:
            writer.write(b" ")
            await asyncio.wait([closed], timeout=0.5)
        closed.cancel()
        writer.close()

    async def _wait_for_the_end(self, reader: asyncio.StreamReader, end: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                while await reader.read(65536):
                    pass


async def run(port: int, model: str, clients: int, seconds: float) -> Attackers:
    """Attack with many clients concurrently."""
    attackers = Attackers(port, model)
    print("ready", flush=True)
    end = time.monotonic() + seconds
    await asyncio.gather(*(attackers.attack(end) for _ in range(clients)))
    return attackers


def main() -> None:
    """Attack as the command line says."""
    port, model, clients, seconds = sys.argv[1:]
    os.nice(10)  # the attackers share the machine with the measured server
    attackers = asyncio.run(run(int(port), model, int(clients), float(seconds)))
    print(json.dumps({"statuses": attackers.statuses, "failures": attackers.failures}), flush=True)


if __name__ == "__main__":
    main()

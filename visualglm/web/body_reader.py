"""Read the bodies of requests within limits of size, time and memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.types import Receive

from ..body_budget import BodyBudget, BodyReservation
from .errors import PageError

MAX_JSON_BYTES = 1024**2
MAX_LOGIN_BYTES = 16 * 1024
JSON_TIMEOUT_S = 30.0
IMAGE_TIMEOUT_S = 600.0  # 20 MB over a slow phone connection
MAX_BODIES_BYTES = 512 * 1024**2  # of all bodies that are being read or decoded
DISCARD_FACTOR = 4  # a body that is too large is read and discarded up to this multiple of its limit


class BodyReader:
    """Reads bodies; all of them share one memory budget. For use on the event loop only."""

    def __init__(self) -> None:
        self.budget = BodyBudget(MAX_BODIES_BYTES)

    @asynccontextmanager
    async def read(self, request: Request, limit: int, seconds: float, too_large: PageError) -> AsyncIterator[bytes]:
        """Context manager: read a body; it counts against the memory budget during the block.

        Args:
            limit: maximum number of bytes.
            seconds: until the body must have arrived.
            too_large: raised if the body has more bytes.

        Raises:
            PageError: `too_large`; too_slow; busy, the bodies of all requests need too much memory.
        """
        reservation = BodyReservation(self.budget)
        try:
            try:
                async with asyncio.timeout(seconds):
                    body = await self._collect(request.receive, limit, reservation, too_large)
            except TimeoutError:
                raise PageError("too_slow") from None
            yield body
        finally:
            reservation.release()

    async def _collect(self, receive: Receive, limit: int, reservation: BodyReservation, too_large: PageError) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise PageError("too_slow")
            body += message.get("body", b"")
            is_last = not message.get("more_body", False)
            if len(body) > limit:
                if not is_last:
                    await discard(receive, limit * DISCARD_FACTOR)
                raise too_large
            if not reservation.resize(len(body)):
                raise PageError("busy")
            if is_last:
                return bytes(body)


async def discard(receive: Receive, limit: int) -> None:
    """Read the rest of a body, up to `limit` bytes: a client that is still sending would not read the response."""
    received = 0
    while received <= limit:
        message = await receive()
        received += len(message.get("body", b""))
        if not message.get("more_body", False):
            return

"""Limits on the number of connections, and a timeout for the headers of each request."""

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .local_address import client_network, parse_address

LOGGER = logging.getLogger("visualglm.serving")
HEADER_TIMEOUT_S = 20.0  # seconds until the headers of a request must have arrived
REPORT_INTERVAL_S = 10.0  # seconds between log lines about rejected connections
TOO_MANY_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class ConnectionLimits:
    """Limits the open connections, in total and for each client address. For use on the event loop only.

    Args:
        max_total: maximum number of connections.
        max_per_client: maximum number of connections of one client address, except loopback addresses and `trusted`.
        trusted: addresses or networks of proxies, whose connections belong to many clients.
    """

    def __init__(self, max_total: int, max_per_client: int, trusted: Sequence[str] = ()) -> None:
        self.max_total = max_total
        self.max_per_client = max_per_client
        self.trusted = [ipaddress.ip_network(address, strict=False) for address in trusted]
        self.total = 0
        self.by_client: Counter[str] = Counter()
        self.rejected = 0
        self.reported = 0.0

    def admit(self, address: str | None) -> bool:
        """Count a new connection from `address`; return False, without counting it, if a limit is reached."""
        client = self.client_key(address)
        if self.total >= self.max_total or (client is not None and self.by_client[client] >= self.max_per_client):
            self._report()
            return False
        self.total += 1
        if client is not None:
            self.by_client[client] += 1
        return True

    def release(self, address: str | None) -> None:
        """Stop counting a connection that was admitted."""
        self.total -= 1
        if (client := self.client_key(address)) is not None:
            self.by_client[client] -= 1
            if not self.by_client[client]:
                del self.by_client[client]

    def client_key(self, address: str | None) -> str | None:
        """Return the key that counts the connections of an address, None if only the total limit applies."""
        if address is None:  # a Unix socket
            return None
        parsed = parse_address(address)
        if parsed is None or parsed.is_loopback or any(parsed in network for network in self.trusted):
            return None
        return client_network(address)

    def _report(self) -> None:
        self.rejected += 1
        if time.monotonic() - self.reported >= REPORT_INTERVAL_S:
            self.reported = time.monotonic()
            details = {"open": self.total, "refused": self.rejected}
            LOGGER.warning("too many connections", extra={"details": details})


def limit_connections(config: uvicorn.Config, limits: ConnectionLimits) -> None:
    """Apply `limits` to the new connections of a uvicorn server, which may already be running."""
    config.http_protocol_class = partial(LimitedProtocol, limits=limits)  # type: ignore[assignment]


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with `ConnectionLimits` and a timeout for the headers of each request.

    uvicorn's own keep-alive timeout ends with the first byte of the next request.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.limits = limits
        self.admitted = False
        self.address: str | None = None
        self.header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Admit the connection, or send 503 and close it."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else None
        self.admitted = self.limits.admit(self.address)
        if self.admitted:
            self._update_header_timer()
        else:
            transport.write(TOO_MANY_RESPONSE)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer and the counting of the connection."""
        super().connection_lost(exc)
        self._stop_timer()
        if self.admitted:
            self.limits.release(self.address)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes; ignore them if the connection was not admitted."""
        if self.admitted:
            super().data_received(data)

    def handle_events(self) -> None:
        """Handle parsed events; then start or stop the header timer."""
        super().handle_events()
        if not self.transport.is_closing():
            self._update_header_timer()

    def _update_header_timer(self) -> None:
        """Run the timer exactly while the connection waits for headers."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self.header_timer is None:
            self.header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self.header_timer is not None:
            self.header_timer.cancel()
            self.header_timer = None

"""Ports for the servers that tests start in other processes."""

import itertools
import os
import socket

FIRST_PORT, PORTS_PER_WORKER = 20_000, 1_000  # below the ports that Linux chooses for connections and for port 0
_offsets = itertools.count(os.getpid())


def free_port() -> int:
    """Return an unused port. Each worker of pytest-xdist has its own range, so no other worker takes it meanwhile."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = FIRST_PORT + worker * PORTS_PER_WORKER + next(_offsets) % PORTS_PER_WORKER
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port

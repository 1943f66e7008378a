"""Whether a server is for its own machine alone, and by which names a browser there calls it."""

import ipaddress
import socket

from .settings import Settings

LOOPBACK = ("127.0.0.1", "::1")
OWN_NAME = "localhost"


def listens_locally(settings: Settings) -> bool:
    """Return whether nobody but this machine reaches the server."""
    try:
        found = socket.getaddrinfo(settings.host or None, settings.port)
    except OSError:
        return False
    return all(address[4][0] in LOOPBACK for address in found)


def is_own_name(host: str) -> bool:
    """Return whether a Host header names this machine, or an address: no page of another site can make it so.

    Such a page's own name can, for the time of a request, stand for this machine's address (DNS rebinding).
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == OWN_NAME or name.endswith(f".{OWN_NAME}"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True

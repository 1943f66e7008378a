"""Decides which addresses and host names mean this machine; the HTTP server and the web page share it."""

import ipaddress
import socket
from collections.abc import Collection

OWN_NAME = "localhost"


def is_loopback(address: str) -> bool:
    """Return whether a numeric address is one of this machine's loopback addresses (127.0.0.0/8 and ::1)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def listens_on_loopback(host: str) -> bool:
    """Return whether a server that listens at `host` ("" for all addresses) is reachable from this machine only."""
    try:
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_loopback(str(entry[4][0])) for entry in found)


def host_name(host: str) -> str:
    """Return the name in a Host header, without port, brackets and a final dot, in lower case."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name.strip("[]").rstrip(".").lower()


def is_own_name(host: str, names: Collection[str] = ()) -> bool:
    """Return whether a Host header is an address, a name of this machine, or one of `names` (in lower case).

    The page of another site cannot send such a header: with DNS rebinding, its own host name resolves to this machine
    for a while, but the browser still sends that name.
    """
    name = host_name(host)
    if name == OWN_NAME or name.endswith(f".{OWN_NAME}") or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

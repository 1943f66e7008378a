"""Classify IP addresses, host names and ports: loopback, this machine, and the network of one client."""

import ipaddress
import socket
from collections.abc import Collection

LOCALHOST = "localhost"
MAX_PORT = 65535
IPV6_PREFIX = 64  # bits; providers assign a network of this size to each IPv6 client


def is_port(text: str) -> bool:
    """Return whether a text is the number of a port, from 1 to MAX_PORT."""
    return text.isdecimal() and 1 <= int(text[:6]) <= MAX_PORT


def parse_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address; return IPv4-mapped IPv6 addresses as IPv4, and None if it is invalid."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def is_loopback(address: str) -> bool:
    """Return whether an IP address is a loopback address (127.0.0.0/8 or ::1)."""
    parsed = parse_address(address)
    return parsed is not None and parsed.is_loopback


def client_network(address: str) -> str:
    """Return the /64 network of an IPv6 address, because one client can use all of its addresses; else the address."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


def listens_on_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens at `host` ("" for all addresses)."""
    try:
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_loopback(str(entry[4][0])) for entry in found)


def host_name(host: str) -> str:
    """Return the host name of a Host header in lower case, without port, brackets and final dot."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name.strip("[]").rstrip(".").lower()


def is_own_host(host: str, names: Collection[str] = ()) -> bool:
    """Return whether a Host header is an IP address, localhost, or one of `names` (in lower case).

    This prevents DNS rebinding, in which another site's host name resolves to this machine: the browser then sends that
    name.
    """
    name = host_name(host)
    if name == LOCALHOST or name.endswith(f".{LOCALHOST}") or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

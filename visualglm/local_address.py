"""Read the addresses of clients and hosts: which mean this machine, and which one client can choose between."""

import ipaddress
import socket
from collections.abc import Collection

LOCALHOST = "localhost"
IPV6_PREFIX = 64  # of the network that one client of IPv6 has for itself


def parse_address(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse a numeric address, as IPv4 where it is one in the form of IPv6; None if it is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def is_loopback(address: str) -> bool:
    """Return whether a numeric address is one of this machine's loopback addresses (127.0.0.0/8 and ::1)."""
    parsed = parse_address(address)
    return parsed is not None and parsed.is_loopback


def client_network(address: str) -> str:
    """Return what one client can choose its addresses from: the /64 network of an IPv6 address, else the address."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


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


def is_own_host(host: str, names: Collection[str] = ()) -> bool:
    """Return whether a Host header is an address, a name of this machine, or one of `names` (in lower case).

    The page of another site cannot send such a header: with DNS rebinding, its own host name resolves to this machine
    for a while, but the browser still sends that name.
    """
    name = host_name(host)
    if name == LOCALHOST or name.endswith(f".{LOCALHOST}") or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""The address of a picture on the web: a URL -> a checked target -> a socket, on request to public addresses alone."""

import ipaddress
import queue
import re
import socket
import threading
import time
import unicodedata
import urllib.parse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import ImageError

INSTEAD = "Check the address, or download the picture yourself and give the file."  # ends most messages

_DEFAULT_PORTS = {"http": 80, "https": 443}
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
# In some versions of ipaddress global, but set aside for protocols, documentation, or another address inside.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

# Addresses of public blocks that a cloud answers inside its own network: Azure's host agent, IBM Cloud's service
# endpoints, Equinix Metal's metadata service.
_CLOUD_INTERNAL = tuple(
    ipaddress.ip_network(block) for block in ("168.63.129.16/32", "161.26.0.0/16", "166.8.0.0/14", "192.80.8.124/32")
)

# (family, type, protocol, canonical name, socket address), as socket.getaddrinfo gives them
_Address = tuple[int, int, int, str, tuple[Any, ...]]


@dataclass(frozen=True)
class Target:
    """A checked http(s) URL, in the parts that a connection and a request need.

    Attributes:
        scheme: "http" or "https".
        host: ASCII name or numeric address, an IPv6 one without brackets.
        port: 1..65535, the scheme's own unless the URL names one.
        path: percent-encoded, with the query.
        userinfo: user:password, decoded, or "".
        shown: the URL as messages may show it.
    """

    scheme: str
    host: str
    port: int
    path: str
    userinfo: str
    shown: str

    @property
    def authority(self) -> str:
        """The Host header: host, and the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Deadline:
    """The one moment, `seconds` after its making, at which everything must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left, more than 0; TimeoutError when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time is over")
        return seconds


def fetch_error(shown: str, reason: str) -> ImageError:
    """Return the error that says why the picture at `shown`, see `display_url`, could not be fetched."""
    return ImageError(f"The picture {shown} could not be fetched: {reason}")


def parse_url(url: str) -> Target:
    """Split and check `url`; ImageError when it is not an http(s) address that can be asked for."""
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in url):  # control characters, half characters
        raise ImageError("The picture's address contains control characters. Copy the address anew.")
    try:
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in _DEFAULT_PORTS:
            raise fetch_error(display_url(url), "only addresses that start with http:// or https:// are read.")
        userinfo = parts.netloc.rpartition("@")[0]
        host = _ascii_host(parts.hostname or "")
        if "\\" in userinfo:  # others would read a path there and call another host
            raise ValueError("backslash before the host")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        path = _quote(parts.path or "/") + (f"?{_quote(parts.query)}" if parts.query else "")
    except ValueError as error:
        reason = "this is not a complete http(s) address, like https://example.com/cat.jpg."
        raise fetch_error(display_url(url), f"{reason} {INSTEAD}") from error
    return Target(parts.scheme, host, port, path, urllib.parse.unquote(userinfo), display_url(url))


def check_domain(target: Target, domains: Sequence[str]) -> None:
    """Check that the host of `target` is one of `domains` or below one of them; none given, any host will do.

    Raises:
        ImageError: it is not.
    """
    host = target.host.lower()
    if domains and not any(host == domain or host.endswith(f".{domain}") for domain in map(_ascii_domain, domains)):
        raise fetch_error(target.shown, f"pictures from {target.host} are not read here. {INSTEAD}")


def check_port(target: Target, ports: Sequence[int]) -> None:
    """Check that the port of `target` is 80, 443 or one of `ports`.

    Raises:
        ImageError: it is not.
    """
    if target.port not in (*_DEFAULT_PORTS.values(), *ports):
        raise fetch_error(target.shown, f"pictures from port {target.port} are not read here. {INSTEAD}")


def _ascii_domain(domain: str) -> str:
    return _ascii_host(domain.strip().strip(".")).lower()


def _ascii_host(host: str) -> str:
    """Return `host` as DNS and TLS know it; ValueError when it cannot be one."""
    host = host.rstrip(".")
    if ":" in host:
        return str(ipaddress.IPv6Address(host))
    name = host.encode("idna").decode("ascii").rstrip(".")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError("no host name")
    return name


def _quote(text: str) -> str:
    """Percent-encode what must not stand in a request line, and leave what is encoded already."""
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", urllib.parse.quote(text, safe="%/:@!$&'()*+,;=~?"))


def join_url(url: str, location: str) -> str:
    """Return the absolute address that the redirect `location` from `url` names."""
    with suppress(UnicodeError):  # http.client reads headers as Latin-1, servers write them in UTF-8
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urllib.parse.urljoin(url, location)
    except ValueError as error:
        raise fetch_error(display_url(url), f"it redirects to a broken address. {INSTEAD}") from error


def display_url(url: str) -> str:
    """Return `url` as it may be shown and logged: without password, query and fragment, and not too long."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # ValueError when a password's "/" or a typo has confused the parts
    except ValueError:
        return "at the given address"
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    printable = "".join(c if c.isprintable() else "?" for c in shown)
    return printable if len(printable) <= 200 else printable[:199] + "…"


def open_socket(target: Target, deadline: Deadline, public_only: bool) -> socket.socket:
    """Connect to the first address of `target` that answers; the name is looked up only this once.

    The addresses that were checked are the ones connected to, so a name whose answer changes gains nothing.

    Raises:
        ImageError: `public_only`, and no address of `target` is public.
        OSError: the name is not found, no address answers, or the time is over.
    """
    refusal = fetch_error(
        target.shown, f"{target.host} is not a public address, and only those may be fetched here. {INSTEAD}"
    )
    if public_only and _is_odd_number(target.host):
        raise refusal
    addresses = _resolve(target, deadline)
    if public_only:
        addresses = [address for address in addresses if is_public_address(address[4][0])]
    if not addresses:
        raise refusal
    return _connect_first(addresses, deadline)


def _connect_first(addresses: list[_Address], deadline: Deadline) -> socket.socket:
    """Connect to the first of the numeric `addresses` (at least one) that answers."""
    failure: OSError = OSError("no address")
    for tries_left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.left() / tries_left)  # one silent address must not eat the others' time
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _resolve(target: Target, deadline: Deadline) -> list[_Address]:
    """Look the host up, in a thread because the resolver has no time limit of its own."""
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(list(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)))
        except Exception as error:  # handed over, to be raised where somebody waits
            answers.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError("the name was not resolved in time") from None
    if isinstance(answer, UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def is_public_address(address: str) -> bool:
    """Tell whether the numeric IP `address` is globally routable, embeds no other address and is not a cloud's own."""
    ip = ipaddress.ip_address(address)
    # Of the IPv6 forms that embed an IPv4 address only 6to4 and Teredo lie inside 2000::/3.
    if ip.version == 6 and ip not in _GLOBAL_IPV6:
        return False
    if any(ip in block for block in (*_NEVER_PUBLIC, *_CLOUD_INTERNAL)):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _is_odd_number(host: str) -> bool:
    """Tell whether `host` is an IPv4 address in disguise: decimal, octal, hexadecimal or abbreviated."""
    if not re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2].lower()):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False

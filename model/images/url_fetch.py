"""Fetch the bytes at an http(s) URL within limits of size and time, on request from public addresses alone."""

import base64
import http.client
import io
import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
import unicodedata
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, cast

from ..errors import ImageError

DOWNLOAD_ADVICE = "Check the address, or download the picture yourself and give the file."  # ends most messages

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
    safe_url: str

    @property
    def authority(self) -> str:
        """The Host header: host, and the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Deadline:
    """The one moment, `seconds` after its making, at which everything must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, more than 0; TimeoutError when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time is over")
        return seconds


def fetch_error(safe_url: str, reason: str) -> ImageError:
    """Return the error that says why the picture at `safe_url`, see `display_url`, could not be fetched."""
    return ImageError(f"The picture {safe_url} could not be fetched: {reason}")


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
        raise fetch_error(display_url(url), f"{reason} {DOWNLOAD_ADVICE}") from error
    return Target(parts.scheme, host, port, path, urllib.parse.unquote(userinfo), display_url(url))


def check_domain(target: Target, domains: Sequence[str]) -> None:
    """Check that the host of `target` is one of `domains` or below one of them; none given, any host will do.

    Raises:
        ImageError: it is not.
    """
    host = target.host.lower()
    if domains and not any(host == domain or host.endswith(f".{domain}") for domain in map(_ascii_domain, domains)):
        raise fetch_error(target.safe_url, f"pictures from {target.host} are not read here. {DOWNLOAD_ADVICE}")


def check_port(target: Target, ports: Sequence[int]) -> None:
    """Check that the port of `target` is 80, 443 or one of `ports`.

    Raises:
        ImageError: it is not.
    """
    if target.port not in (*_DEFAULT_PORTS.values(), *ports):
        raise fetch_error(target.safe_url, f"pictures from port {target.port} are not read here. {DOWNLOAD_ADVICE}")


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
        raise fetch_error(display_url(url), f"it redirects to a broken address. {DOWNLOAD_ADVICE}") from error


def display_url(url: str) -> str:
    """Return `url` as it may be shown and logged: without password, query and fragment, and not too long."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # ValueError when a password's "/" or a typo has confused the parts
    except ValueError:
        return "at the given address"
    safe_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    printable = "".join(c if c.isprintable() else "?" for c in safe_url)
    return printable if len(printable) <= 200 else printable[:199] + "…"


def open_socket(target: Target, deadline: Deadline, public_only: bool) -> socket.socket:
    """Connect to the first address of `target` that answers; the name is looked up only this once.

    The addresses that were checked are the ones connected to, so a name whose answer changes gains nothing.

    Raises:
        ImageError: `public_only`, and no address of `target` is public.
        OSError: the name is not found, no address answers, or the time is over.
    """
    not_public_error = fetch_error(
        target.safe_url, f"{target.host} is not a public address, and only those may be fetched here. {DOWNLOAD_ADVICE}"
    )
    if public_only and _is_nonstandard_ipv4(target.host):
        raise not_public_error
    addresses = _resolve(target, deadline)
    if public_only:
        addresses = [address for address in addresses if is_public_address(address[4][0])]
    if not addresses:
        raise not_public_error
    return _connect_first(addresses, deadline)


def _connect_first(addresses: list[_Address], deadline: Deadline) -> socket.socket:
    """Connect to the first of the numeric `addresses` (at least one) that answers."""
    failure: OSError = OSError("no address")
    for tries_left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.remaining() / tries_left)  # one silent address must not eat the others' time
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _resolve(target: Target, deadline: Deadline) -> list[_Address]:
    """Look the host up, in a thread because the resolver has no time limit of its own."""
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            answers.put(list(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)))
        except Exception as error:  # handed over, to be raised where somebody waits
            answers.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.remaining())
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


def _is_nonstandard_ipv4(host: str) -> bool:
    """Tell whether `host` is an IPv4 address in disguise: decimal, octal, hexadecimal or abbreviated."""
    if not re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2].lower()):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


MAX_BYTES = 64 * 1024 * 1024
TIMEOUT = 20.0

_REDIRECTS = {301, 302, 303, 307, 308}
_PROXY_ADVICE = "Set HTTP_PROXY and HTTPS_PROXY to http://host:port, or unset them."


def fetch_bytes(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
    public_only: bool = False,
    max_redirects: int = 5,
    domains: Sequence[str] = (),
    ports: Sequence[int] = (),
) -> bytes:
    """Return what stands at `url`.

    Args:
        url: http(s) address; the host and the path may be in any script.
        max_bytes: most bytes of the answer, also after decompression.
        timeout: seconds for everything together: names, connections, redirects and the body.
        public_only: connect to globally routable addresses alone and use no proxy, for servers whose users
            must not reach the inner network. Otherwise the proxy settings of the environment are followed.
        max_redirects: most redirects; each new address is checked as the first one was.
        domains: the host must be one of these or below one of them; none given, any host will do.
        ports: with public_only, ports other than 80 and 443 that may be asked.

    Raises:
        ImageError: the address is not acceptable, or its answer is missing, too large or too slow.
    """
    deadline = Deadline(timeout)
    for _ in range(max_redirects + 1):
        target = parse_url(url)
        check_domain(target, domains)
        if public_only:
            check_port(target, ports)
        try:
            answer = _get(target, deadline, max_bytes, public_only)
        except (OSError, http.client.HTTPException) as error:
            raise fetch_error(target.safe_url, _describe_error(error, target.host, timeout)) from error
        if isinstance(answer, bytes):
            return answer
        url = join_url(url, answer)
    raise fetch_error(display_url(url), f"it was redirected more than {max_redirects} times. {DOWNLOAD_ADVICE}")


class _DeadlineStream(io.RawIOBase):
    """A connected socket of which each read waits only as long as the deadline allows.

    A socket's own timeout starts anew with each byte, so a server that drips could hold us for ever.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.remaining())
        return self._sock.recv_into(buffer)

    def readall(self) -> bytes:
        # http.client asks for this only where a server claims a chunk of -1 bytes.
        raise http.client.HTTPException("a chunk without a valid size")

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.remaining())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # all that HTTPResponse asks of a socket
        return io.BufferedReader(_DeadlineStream(self._sock, self._deadline))


def _get(target: Target, deadline: Deadline, max_bytes: int, public_only: bool) -> bytes | str:
    """Ask once: return the body, or the address to which the server redirects."""
    proxy = None if public_only else _find_proxy(target)
    with closing(_connect(target, proxy, deadline, public_only)) as sock:
        headers = {
            "User-Agent": "visualglm (reads one picture)",
            "Accept": "image/*, */*;q=0.5",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **_authorization("Authorization", target),
        }
        plain_proxy = proxy is not None and target.scheme == "http"
        if proxy is not None and plain_proxy:
            headers |= _authorization("Proxy-Authorization", proxy)
        request_target = f"http://{target.authority}{target.path}" if plain_proxy else target.path
        stream = _DeadlineStream(sock, deadline)
        with _send_request(stream, "GET", request_target, target.authority, headers) as response:
            if response.status in _REDIRECTS and (location := response.getheader("Location")):
                return location
            if response.status != 200:
                raise fetch_error(target.safe_url, _describe_status(response.status, target.host))
            return _read_body(response, target, max_bytes)


def _send_request(
    stream: _DeadlineStream, method: str, request_target: str, authority: str, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """Send one request and return its response, headers read and body unread."""
    connection = http.client.HTTPConnection(authority)
    connection.sock = cast(socket.socket, stream)  # so that it neither looks a name up nor connects by itself
    connection.putrequest(method, request_target, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": authority, **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


def _authorization(header: str, target: Target) -> dict[str, str]:
    if not target.userinfo:
        return {}
    return {header: f"Basic {base64.b64encode(target.userinfo.encode()).decode('ascii')}"}


def _read_body(response: http.client.HTTPResponse, target: Target, max_bytes: int) -> bytes:
    """Read the body to its end; ImageError when it is larger than `max_bytes` or breaks off."""
    if response.length is not None and response.length > max_bytes:
        raise _too_large(target, max_bytes)
    body = bytearray()
    while chunk := _read_chunk(response):
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(target, max_bytes)
    if response.length:  # what Content-Length promised and the server did not send
        raise http.client.IncompleteRead(b"", response.length)
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        return bytes(body)
    data = _decompress(bytes(body), encoding, target, max_bytes)
    if len(data) > max_bytes:
        raise _too_large(target, max_bytes)
    return data


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes of the body, b"" at its end."""
    try:
        return response.read(65536)
    except (
        ValueError,
        OverflowError,
    ) as error:  # http.client takes a negative chunk size for a number of bytes to read
        raise http.client.HTTPException("a chunk without a valid size") from error


def _too_large(target: Target, max_bytes: int) -> ImageError:
    return fetch_error(target.safe_url, f"it has more than {max_bytes:,} bytes. Choose a smaller version of it.")


def _decompress(body: bytes, encoding: str, target: Target, max_bytes: int) -> bytes:
    """Undo a compression that we did not ask for, up to one byte more than `max_bytes`."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise fetch_error(target.safe_url, f"the server compressed it in a way that is not known. {DOWNLOAD_ADVICE}")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise fetch_error(target.safe_url, f"the server's compressed answer is damaged. {DOWNLOAD_ADVICE}") from error
    if not inflater.eof and len(data) <= max_bytes:
        raise http.client.IncompleteRead(b"")
    return data


def _find_proxy(target: Target) -> Target | None:
    """Return the proxy for `target` that HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or the system, name."""
    setting = urllib.request.getproxies().get(target.scheme)
    if not setting or urllib.request.proxy_bypass(f"{target.host}:{target.port}"):
        return None
    try:
        proxy = parse_url(setting if "://" in setting else f"http://{setting}")
    except ImageError as error:
        raise fetch_error(target.safe_url, f"the proxy setting is not usable. {_PROXY_ADVICE}") from error
    if proxy.scheme != "http":
        reason = f"{proxy.scheme} proxies are not supported."
        raise fetch_error(target.safe_url, f"{reason} {_PROXY_ADVICE}")
    return proxy


def _connect(target: Target, proxy: Target | None, deadline: Deadline, public_only: bool) -> socket.socket:
    """Return a socket to the server, directly or through `proxy`, with TLS on it for https."""
    sock = open_socket(target, deadline, public_only) if proxy is None else _connect_to_proxy(proxy, deadline)
    if target.scheme == "http":
        return sock
    try:
        if proxy is not None:
            _open_tunnel(_DeadlineStream(sock, deadline), target, proxy)
        sock.settimeout(deadline.remaining())
        return ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise


def _connect_to_proxy(proxy: Target, deadline: Deadline) -> socket.socket:
    try:
        return open_socket(proxy, deadline, public_only=False)
    except OSError as error:
        reason = f"the proxy {proxy.host}:{proxy.port} could not be reached."
        raise ImageError(f"The picture could not be fetched: {reason} {_PROXY_ADVICE}") from error


def _open_tunnel(stream: _DeadlineStream, target: Target, proxy: Target) -> None:
    host = f"[{target.host}]" if ":" in target.host else target.host
    request_target = f"{host}:{target.port}"
    headers = _authorization("Proxy-Authorization", proxy)
    with _send_request(stream, "CONNECT", request_target, request_target, headers) as response:
        if response.status != 200:
            reason = f"the proxy {proxy.host} refused the connection (status {response.status})."
            raise fetch_error(target.safe_url, f"{reason} {_PROXY_ADVICE}")


def _describe_error(error: Exception, host: str, timeout: float) -> str:
    """Say in plain words why asking `host` failed, and what to do."""
    if isinstance(error, TimeoutError):
        return f"{host} did not send it within {timeout:g} seconds. Try again later. {DOWNLOAD_ADVICE}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {host} could not be verified. Check this machine's clock and certificates, "
            "or download the picture yourself and give the file."
        )
    if isinstance(error, ssl.SSLError):
        return f"no secure connection to {host} was possible. {DOWNLOAD_ADVICE}"
    if isinstance(error, socket.gaierror):
        return f"the host {host} was not found. Check the spelling and the network connection."
    if isinstance(error, ConnectionRefusedError):
        return f"{host} refused the connection. {DOWNLOAD_ADVICE}"
    if isinstance(error, (http.client.HTTPException, ConnectionResetError)):
        return f"{host} broke off or sent no valid answer. Try again. {DOWNLOAD_ADVICE}"
    return f"{host} could not be reached. Check the address and the network connection."


def _describe_status(status: int, host: str) -> str:
    """Say in plain words what an HTTP status other than 200 means for the picture, and what to do."""
    if status in (404, 410):
        return f"{host} has no such picture (status {status}). {DOWNLOAD_ADVICE}"
    if status in (401, 403, 407):
        return f"{host} does not let us have it (status {status}). Download it yourself and give the file."
    if status == 429 or status >= 500:
        return f"{host} is overloaded or out of order (status {status}). Try again later."
    return f"{host} answered with status {status} and no picture. {DOWNLOAD_ADVICE}"

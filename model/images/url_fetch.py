"""Download an http(s) URL within limits of size and time, optionally only from public addresses (SSRF protection)."""

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

DOWNLOAD_ADVICE = "Check the address, or download the image yourself and give the file."  # ends most messages

_DEFAULT_PORTS = {"http": 80, "https": 443}
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
# Global in some versions of ipaddress, but reserved for protocols, documentation, or embedded IPv4 addresses.
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(block)
    for block in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

# Addresses in public blocks that clouds use for internal services: Azure's host agent, IBM Cloud's service endpoints,
# Equinix Metal's metadata service.
_CLOUD_INTERNAL = tuple(
    ipaddress.ip_network(block) for block in ("168.63.129.16/32", "161.26.0.0/16", "166.8.0.0/14", "192.80.8.124/32")
)

# (family, type, protocol, canonical name, socket address), from socket.getaddrinfo
_Address = tuple[int, int, int, str, tuple[Any, ...]]


@dataclass(frozen=True)
class Target:
    """A validated http(s) URL, split into the components that a connection and a request need.

    Attributes:
        scheme: "http" or "https".
        host: ASCII name or numeric address; IPv6 addresses without brackets.
        port: 1..65535; the scheme's default unless the URL has one.
        path: percent-encoded, with the query.
        userinfo: user:password, decoded, or "".
        safe_url: the URL without secrets, for messages; see `display_url`.
    """

    scheme: str
    host: str
    port: int
    path: str
    userinfo: str
    safe_url: str

    @property
    def authority(self) -> str:
        """The value of the Host header: host, and the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Deadline:
    """A point in time, `seconds` after its creation, shared as timeout by all steps of a download."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the remaining seconds, more than 0; raise TimeoutError after the deadline."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the time is over")
        return seconds


def fetch_error(safe_url: str, reason: str) -> ImageError:
    """Return the error for a failed download; `safe_url` is from `display_url`."""
    return ImageError(f"The image {safe_url} could not be fetched: {reason}")


def parse_url(url: str) -> Target:
    """Split and validate `url`; raise ImageError if it is not a usable http(s) address."""
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in url):  # control characters, surrogates
        raise ImageError("The image's address contains control characters. Copy the address again.")
    try:
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in _DEFAULT_PORTS:
            raise fetch_error(display_url(url), "only addresses that start with http:// or https:// are supported.")
        userinfo = parts.netloc.rpartition("@")[0]
        host = _ascii_host(parts.hostname or "")
        if "\\" in userinfo:  # other URL parsers end the host at a backslash and would contact another host
            raise ValueError("backslash before the host")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        path = _quote(parts.path or "/") + (f"?{_quote(parts.query)}" if parts.query else "")
    except ValueError as error:
        reason = "this is not a complete http(s) address, like https://example.com/cat.jpg."
        raise fetch_error(display_url(url), f"{reason} {DOWNLOAD_ADVICE}") from error
    return Target(parts.scheme, host, port, path, urllib.parse.unquote(userinfo), display_url(url))


def check_domain(target: Target, domains: Sequence[str]) -> None:
    """Check that the host of `target` is one of `domains` or a subdomain; empty `domains` allow any host.

    Raises:
        ImageError: the host is not allowed.
    """
    host = target.host.lower()
    if domains and not any(host == domain or host.endswith(f".{domain}") for domain in map(_ascii_domain, domains)):
        raise fetch_error(target.safe_url, f"images from {target.host} are not accepted here. {DOWNLOAD_ADVICE}")


def check_port(target: Target, ports: Sequence[int]) -> None:
    """Check that the port of `target` is 80, 443 or one of `ports`.

    Raises:
        ImageError: the port is not allowed.
    """
    if target.port not in (*_DEFAULT_PORTS.values(), *ports):
        raise fetch_error(target.safe_url, f"images from port {target.port} are not accepted here. {DOWNLOAD_ADVICE}")


def _ascii_domain(domain: str) -> str:
    return _ascii_host(domain.strip().strip(".")).lower()


def _ascii_host(host: str) -> str:
    """Return the ASCII form of `host` for DNS and TLS; raise ValueError if it is not a host name."""
    host = host.rstrip(".")
    if ":" in host:
        return str(ipaddress.IPv6Address(host))
    name = host.encode("idna").decode("ascii").rstrip(".")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError("no host name")
    return name


def _quote(text: str) -> str:
    """Percent-encode characters not allowed in a request line; keep existing percent-encoding."""
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", urllib.parse.quote(text, safe="%/:@!$&'()*+,;=~?"))


def join_url(url: str, location: str) -> str:
    """Return the absolute URL of the redirect `location` of a response from `url`."""
    with suppress(UnicodeError):  # http.client decodes headers as Latin-1, but servers send UTF-8
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urllib.parse.urljoin(url, location)
    except ValueError as error:
        raise fetch_error(display_url(url), f"it redirects to an invalid address. {DOWNLOAD_ADVICE}") from error


def display_url(url: str) -> str:
    """Return `url` for messages and logs: without password, query and fragment, at most 200 characters."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # ValueError if a "/" in a password or a typo has led to a wrong split
    except ValueError:
        return "at the given address"
    safe_url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    printable = "".join(c if c.isprintable() else "?" for c in safe_url)
    return printable if len(printable) <= 200 else printable[:199] + "…"


def open_socket(target: Target, deadline: Deadline, public_only: bool) -> socket.socket:
    """Connect to the first responding address of `target`, resolving its name exactly once.

    The checked addresses are the ones connected to, which prevents DNS rebinding.

    Raises:
        ImageError: `public_only` is set, and no address of `target` is public.
        OSError: the name is not found, no address responds, or the deadline has passed.
    """
    not_public_error = fetch_error(
        target.safe_url, f"{target.host} is not a public address, and only those are allowed here. {DOWNLOAD_ADVICE}"
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
    """Connect to the first responding address; `addresses` are numeric and not empty."""
    failure: OSError = OSError("no address")
    for tries_left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(deadline.remaining() / tries_left)  # one silent address must not use up all time
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _resolve(target: Target, deadline: Deadline) -> list[_Address]:
    """Resolve the host name, in a thread because the resolver has no timeout."""
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            answers.put(list(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)))
        except Exception as error:  # raised in the waiting thread
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
    """Return whether an IP address is globally routable, embeds no other address, and is not internal to a cloud."""
    ip = ipaddress.ip_address(address)
    # Of the IPv6 formats that embed an IPv4 address, only 6to4 and Teredo are inside 2000::/3.
    if ip.version == 6 and ip not in _GLOBAL_IPV6:
        return False
    if any(ip in block for block in (*_NEVER_PUBLIC, *_CLOUD_INTERNAL)):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _is_nonstandard_ipv4(host: str) -> bool:
    """Return whether `host` is a nonstandard IPv4 notation: decimal, octal, hexadecimal or abbreviated."""
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
    """Download the content at `url`.

    Args:
        url: http(s) address; host and path may contain non-ASCII characters.
        max_bytes: maximum size of the body, also after decompression.
        timeout: total seconds for name resolution, connections, redirects and the body.
        public_only: connect only to globally routable addresses and use no proxy, for servers whose users must not
            reach the internal network. Otherwise the proxy settings of the environment apply.
        max_redirects: maximum number of redirects; each new address is checked like the first.
        domains: allowed hosts, including subdomains; empty allows any host.
        ports: with public_only, allowed ports besides 80 and 443.

    Raises:
        ImageError: the address is not allowed, or the response is missing, too large or too slow.
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
    """A connected socket whose reads and writes time out at the deadline.

    A socket's own timeout restarts with each received byte, so that a slow server could block forever.
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
        # http.client calls this only if a server announces a chunk of -1 bytes.
        raise http.client.HTTPException("a chunk without a valid size")

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.remaining())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # the only method that HTTPResponse needs of a socket
        return io.BufferedReader(_DeadlineStream(self._sock, self._deadline))


def _get(target: Target, deadline: Deadline, max_bytes: int, public_only: bool) -> bytes | str:
    """Send one request; return the body, or the address of a redirect."""
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
    """Send one request; return the response with its headers read and its body unread."""
    connection = http.client.HTTPConnection(authority)
    connection.sock = cast(socket.socket, stream)  # prevents http.client from resolving and connecting
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
    """Read the complete body; raise ImageError if it exceeds `max_bytes`, HTTPException if it is truncated."""
    if response.length is not None and response.length > max_bytes:
        raise _too_large(target, max_bytes)
    body = bytearray()
    while chunk := _read_chunk(response):
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(target, max_bytes)
    if response.length:  # fewer bytes than Content-Length were received
        raise http.client.IncompleteRead(b"", response.length)
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        return bytes(body)
    data = _decompress(bytes(body), encoding, target, max_bytes)
    if len(data) > max_bytes:
        raise _too_large(target, max_bytes)
    return data


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes of the body; b"" at its end."""
    try:
        return response.read(65536)
    except (
        ValueError,
        OverflowError,
    ) as error:  # http.client accepts a negative chunk size as a number of bytes to read
        raise http.client.HTTPException("a chunk without a valid size") from error


def _too_large(target: Target, max_bytes: int) -> ImageError:
    return fetch_error(target.safe_url, f"it has more than {max_bytes:,} bytes. Choose a smaller version of the image.")


def _decompress(body: bytes, encoding: str, target: Target, max_bytes: int) -> bytes:
    """Decompress a body that was compressed without request, up to one byte more than `max_bytes`."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise fetch_error(target.safe_url, f"the server sent an unknown Content-Encoding. {DOWNLOAD_ADVICE}")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: detect gzip or zlib
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise fetch_error(target.safe_url, f"the compressed response is damaged. {DOWNLOAD_ADVICE}") from error
    if not inflater.eof and len(data) <= max_bytes:
        raise http.client.IncompleteRead(b"")
    return data


def _find_proxy(target: Target) -> Target | None:
    """Return the proxy for `target` from HTTP_PROXY, HTTPS_PROXY and NO_PROXY or the system's settings."""
    setting = urllib.request.getproxies().get(target.scheme)
    if not setting or urllib.request.proxy_bypass(f"{target.host}:{target.port}"):
        return None
    try:
        proxy = parse_url(setting if "://" in setting else f"http://{setting}")
    except ImageError as error:
        raise fetch_error(target.safe_url, f"the proxy setting is invalid. {_PROXY_ADVICE}") from error
    if proxy.scheme != "http":
        reason = f"{proxy.scheme} proxies are not supported."
        raise fetch_error(target.safe_url, f"{reason} {_PROXY_ADVICE}")
    return proxy


def _connect(target: Target, proxy: Target | None, deadline: Deadline, public_only: bool) -> socket.socket:
    """Connect to the server, directly or through `proxy`, with TLS for https."""
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
        raise ImageError(f"The image could not be fetched: {reason} {_PROXY_ADVICE}") from error


def _open_tunnel(stream: _DeadlineStream, target: Target, proxy: Target) -> None:
    host = f"[{target.host}]" if ":" in target.host else target.host
    request_target = f"{host}:{target.port}"
    headers = _authorization("Proxy-Authorization", proxy)
    with _send_request(stream, "CONNECT", request_target, request_target, headers) as response:
        if response.status != 200:
            reason = f"the proxy {proxy.host} refused the connection (status {response.status})."
            raise fetch_error(target.safe_url, f"{reason} {_PROXY_ADVICE}")


def _describe_error(error: Exception, host: str, timeout: float) -> str:
    """Describe why a request to `host` failed, and the remedy."""
    if isinstance(error, TimeoutError):
        return f"{host} did not send it within {timeout:g} seconds. Try again later. {DOWNLOAD_ADVICE}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {host} could not be verified. Check this machine's clock and certificates, "
            "or download the image yourself and give the file."
        )
    if isinstance(error, ssl.SSLError):
        return f"no secure connection to {host} was possible. {DOWNLOAD_ADVICE}"
    if isinstance(error, socket.gaierror):
        return f"the host {host} was not found. Check the spelling and the network connection."
    if isinstance(error, ConnectionRefusedError):
        return f"{host} refused the connection. {DOWNLOAD_ADVICE}"
    if isinstance(error, (http.client.HTTPException, ConnectionResetError)):
        return f"{host} closed the connection or sent an invalid response. Try again. {DOWNLOAD_ADVICE}"
    return f"{host} could not be reached. Check the address and the network connection."


def _describe_status(status: int, host: str) -> str:
    """Describe an HTTP status other than 200, and the remedy."""
    if status in (404, 410):
        return f"{host} has no such image (status {status}). {DOWNLOAD_ADVICE}"
    if status in (401, 403, 407):
        return f"{host} denies access (status {status}). Download the image yourself and give the file."
    if status == 429 or status >= 500:
        return f"{host} is overloaded or has an error (status {status}). Try again later."
    return f"{host} responded with status {status} and no image. {DOWNLOAD_ADVICE}"

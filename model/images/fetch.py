"""A URL -> bytes, safely: http(s), a limited size and total time, on request public addresses alone."""

import base64
import http.client
import io
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

from ..errors import ImageError
from .address import (
    INSTEAD,
    Deadline,
    Target,
    check_domain,
    check_port,
    display_url,
    fetch_error,
    join_url,
    open_socket,
    parse_url,
)

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
            raise fetch_error(target.shown, _explain(error, target.host, timeout)) from error
        if isinstance(answer, bytes):
            return answer
        url = join_url(url, answer)
    raise fetch_error(display_url(url), f"it was redirected more than {max_redirects} times. {INSTEAD}")


class _TimedStream(io.RawIOBase):
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
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer)

    def readall(self) -> bytes:
        # http.client asks for this only where a server claims a chunk of -1 bytes.
        raise http.client.HTTPException("a chunk without a valid size")

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # all that HTTPResponse asks of a socket
        return io.BufferedReader(self)


def _get(target: Target, deadline: Deadline, max_bytes: int, public_only: bool) -> bytes | str:
    """Ask once: return the body, or the address to which the server redirects."""
    proxy = None if public_only else _find_proxy(target)
    with closing(_connect(target, proxy, deadline, public_only)) as sock:
        headers = [
            "User-Agent: visualglm (reads one picture)",
            "Accept: image/*, */*;q=0.5",
            "Accept-Encoding: identity",
            "Connection: close",
            *_authorization("Authorization", target),
        ]
        plain_proxy = proxy is not None and target.scheme == "http"
        if proxy is not None and plain_proxy:
            headers += _authorization("Proxy-Authorization", proxy)
        where = f"http://{target.authority}{target.path}" if plain_proxy else target.path
        with _ask(_TimedStream(sock, deadline), "GET", where, target.authority, headers) as response:
            if response.status in _REDIRECTS and (location := response.getheader("Location")):
                return location
            if response.status != 200:
                raise fetch_error(target.shown, _explain_status(response.status, target.host))
            return _read_body(response, target, max_bytes)


def _ask(stream: _TimedStream, method: str, where: str, authority: str, headers: list[str]) -> http.client.HTTPResponse:
    """Send one request and return its response, headers read and body unread."""
    lines = [f"{method} {where} HTTP/1.1", f"Host: {authority}", *headers, "", ""]
    stream.sendall("\r\n".join(lines).encode("ascii"))
    response = http.client.HTTPResponse(cast(socket.socket, stream), method=method)
    try:
        response.begin()
    except BaseException:
        response.close()
        raise
    return response


def _authorization(header: str, target: Target) -> list[str]:
    if not target.userinfo:
        return []
    return [f"{header}: Basic {base64.b64encode(target.userinfo.encode()).decode('ascii')}"]


def _read_body(response: http.client.HTTPResponse, target: Target, max_bytes: int) -> bytes:
    """Read the body to its end; ImageError when it is larger than `max_bytes` or breaks off."""
    if response.length is not None and response.length > max_bytes:
        raise _too_large(target, max_bytes)
    body = bytearray()
    while chunk := _read_some(response):
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


def _read_some(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes of the body, b"" at its end."""
    try:
        return response.read(65536)
    except (
        ValueError,
        OverflowError,
    ) as error:  # http.client takes a negative chunk size for a number of bytes to read
        raise http.client.HTTPException("a chunk without a valid size") from error


def _too_large(target: Target, max_bytes: int) -> ImageError:
    return fetch_error(target.shown, f"it has more than {max_bytes:,} bytes. Choose a smaller version of it.")


def _decompress(body: bytes, encoding: str, target: Target, max_bytes: int) -> bytes:
    """Undo a compression that we did not ask for, up to one byte more than `max_bytes`."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise fetch_error(target.shown, f"the server compressed it in a way that is not known. {INSTEAD}")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    try:
        data = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise fetch_error(target.shown, f"the server's compressed answer is damaged. {INSTEAD}") from error
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
        raise fetch_error(target.shown, f"the proxy setting is not usable. {_PROXY_ADVICE}") from error
    if proxy.scheme != "http":
        raise fetch_error(target.shown, f"a proxy that is reached by {proxy.scheme} is not supported. {_PROXY_ADVICE}")
    return proxy


def _connect(target: Target, proxy: Target | None, deadline: Deadline, public_only: bool) -> socket.socket:
    """Return a socket to the server, directly or through `proxy`, with TLS on it for https."""
    sock = open_socket(target, deadline, public_only) if proxy is None else _reach_proxy(proxy, deadline)
    if target.scheme == "http":
        return sock
    try:
        if proxy is not None:
            _open_tunnel(_TimedStream(sock, deadline), target, proxy)
        sock.settimeout(deadline.left())
        return ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise


def _reach_proxy(proxy: Target, deadline: Deadline) -> socket.socket:
    try:
        return open_socket(proxy, deadline, public_only=False)
    except OSError as error:
        reason = f"the proxy {proxy.host}:{proxy.port} could not be reached."
        raise ImageError(f"The picture could not be fetched: {reason} {_PROXY_ADVICE}") from error


def _open_tunnel(stream: _TimedStream, target: Target, proxy: Target) -> None:
    host = f"[{target.host}]" if ":" in target.host else target.host
    where = f"{host}:{target.port}"
    with _ask(stream, "CONNECT", where, where, _authorization("Proxy-Authorization", proxy)) as response:
        if response.status != 200:
            reason = f"the proxy {proxy.host} refused the connection (status {response.status})."
            raise fetch_error(target.shown, f"{reason} {_PROXY_ADVICE}")


def _explain(error: Exception, host: str, timeout: float) -> str:
    """Say in plain words why asking `host` failed, and what to do."""
    if isinstance(error, TimeoutError):
        return f"{host} did not send it within {timeout:g} seconds. Try again later. {INSTEAD}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {host} could not be verified. Check this machine's clock and certificates, "
            "or download the picture yourself and give the file."
        )
    if isinstance(error, ssl.SSLError):
        return f"no secure connection to {host} was possible. {INSTEAD}"
    if isinstance(error, socket.gaierror):
        return f"the host {host} was not found. Check the spelling and the network connection."
    if isinstance(error, ConnectionRefusedError):
        return f"{host} refused the connection. {INSTEAD}"
    if isinstance(error, (http.client.HTTPException, ConnectionResetError)):
        return f"{host} broke off or sent no valid answer. Try again. {INSTEAD}"
    return f"{host} could not be reached. Check the address and the network connection."


def _explain_status(status: int, host: str) -> str:
    """Say in plain words what an HTTP status other than 200 means for the picture, and what to do."""
    if status in (404, 410):
        return f"{host} has no such picture (status {status}). {INSTEAD}"
    if status in (401, 403, 407):
        return f"{host} does not let us have it (status {status}). Download it yourself and give the file."
    if status == 429 or status >= 500:
        return f"{host} is overloaded or out of order (status {status}). Try again later."
    return f"{host} answered with status {status} and no picture. {INSTEAD}"

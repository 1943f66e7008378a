"""Access rules of the page: paths, host names, and the origins that may send requests or embed it."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from ..local_address import host_name, is_own_host

SHARE_DOMAIN = ".gradio.live"
# Paths that can be requested without a login; Gradio's own code, which is the same for everybody, among them.
PUBLIC_PATHS = frozenset({"/", "/login", "/theme.css", "/gradio_api/theme.css", "/favicon.ico", "/robots.txt"})
PUBLIC_PREFIXES = ("/assets/", "/static/", "/svelte/")
# Further paths that the page needs: Gradio's part of it sends no events, so its queue, uploads and files are closed.
PATHS = frozenset({"/logout", "/gradio_api/startup-events"})
PAGE_PREFIX = "/page/"  # the page's own routes
PREFIXES = (PAGE_PREFIX,)
MCP_PATH, MCP_METHODS = "/mcp", ("GET", "POST", "DELETE")  # for programs that speak MCP
# Methods besides GET and HEAD.
POST_PATHS = frozenset({"/login", *(f"/page/{name}" for name in ("images", "answers", "explanations", "votes"))})


def is_public(path: str) -> bool:
    """Return whether a URL path can be requested without a login."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


def is_used(path: str) -> bool:
    """Return whether the page sends requests to this URL path."""
    return is_public(path) or path in PATHS or path.startswith(PREFIXES)


class AccessPolicy:
    """Decides by the headers Host and Origin whether a request is allowed.

    Args:
        own_host: host name or address that the server listens at.
        names: further host names under which browsers may open the page.
        any_name: whether all host names are allowed.
        shared: whether the page also has a URL of Gradio's share servers.
        frame_origins: origins whose pages may embed the page in a frame.
    """

    def __init__(
        self,
        *,
        own_host: str,
        names: Iterable[str] = (),
        any_name: bool = False,
        shared: bool = False,
        frame_origins: Iterable[str] = (),
    ) -> None:
        self.allowed = frozenset(host_name(name) for name in names)
        self.names = self.allowed | {host_name(own_host)}
        self.any_name = any_name
        self.is_shared = shared
        self.frame_policy = " ".join(["frame-ancestors 'self'", *frame_origins])

    def allows_host(self, host: str) -> bool:
        """Return whether the page may be opened under a Host header.

        An unknown host name may be another site's that resolves to this machine (DNS rebinding).
        """
        return self.any_name or is_own_host(host, self.names) or self._is_share(host)

    def allows_origin(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request's Origin is this page under one of its names.

        True without an Origin: requests of programs and followed links have none.
        """
        origin = headers.get("origin")
        if origin is None:
            return True
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            return False
        is_same = host.lower() == headers.get("host", "").lower()
        return is_same or host_name(host) in self.allowed or self._is_share(host)

    def _is_share(self, host: str) -> bool:
        return self.is_shared and host_name(host).endswith(SHARE_DOMAIN)

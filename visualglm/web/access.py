"""Which requests are for this page: its host names, the origins of pages that may use or frame it, its paths."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from ..local_address import host_name, is_own_host

SHARE_DOMAIN = ".gradio.live"
# What the login page needs; GETs only, but for /login.
PUBLIC_PATHS = frozenset(
    {"/", "/login", "/theme.css", "/gradio_api/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"}
)
PUBLIC_PREFIXES = ("/assets/", "/static/", "/svelte/")
# What the page, its browser and gradio_client need once somebody is in. Gradio has more routes; none of them is used.
PATHS = frozenset(
    {"/config", "/logout"}
    | {
        f"/gradio_api/{name}"
        for name in (
            "app_id",
            "cancel",
            "info",
            "login_check",
            "queue/data",
            "queue/join",
            "queue/status",
            "reset",
            "startup-events",
            "token",
            "upload",
            "upload_progress",
            "user",
        )
    }
)
PREFIXES = ("/gradio_api/file=", "/gradio_api/heartbeat/")


def is_public(path: str) -> bool:
    """Return whether a path needs no login."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


def is_known(path: str) -> bool:
    """Return whether a path is one that the page uses."""
    return is_public(path) or path in PATHS or path.startswith(PREFIXES)


class AccessPolicy:
    """Decides by a request's headers whether it comes from this page.

    Args:
        own_host: name or address that the server listens at.
        names: other names by which the page may be called.
        any_name: whether it may be called by any.
        shared: whether it also has an address of Gradio's share servers.
        frames: origins whose pages may show it in a frame.
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

    def knows_host(self, host: str) -> bool:
        """Return whether a Host header is one by which this page may be called.

        Otherwise another site's name may stand for this machine's address (DNS rebinding).
        """
        return self.any_name or is_own_host(host, self.names) or self._is_share(host)

    def knows_origin(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request comes from this page, or without Origin: from a program, or by following a link."""
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

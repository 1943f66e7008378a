"""The login: failed attempts, who is logged in, and the login page."""

import base64
import time
from collections import OrderedDict
from collections.abc import Callable
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any

from model import Language

from ..local_address import client_network
from .client_files import ClientFiles
from .texts import LOGIN_TEXTS

FREE_ATTEMPTS = 5
MAX_WAIT_S = 300.0
FORGET_AFTER_S = 3600.0
MAX_ADDRESSES = 10_000


class LoginAttempts:
    """Counts failed logins per client address. After FREE_ATTEMPTS, each failure doubles the waiting time.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        # Count and time of the last failure of each address, oldest first.
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def seconds_to_wait(self, address: str) -> float:
        """Return the seconds until the address may try again, 0 if it may try now."""
        count, last = self._find(address)
        if count < FREE_ATTEMPTS:
            return 0.0
        pause = min(2.0 ** min(count - FREE_ATTEMPTS, 30), MAX_WAIT_S)
        return max(0.0, last + pause - self.clock())

    def record_failure(self, address: str) -> int:
        """Count a failed login; return the number of failures."""
        count = self._find(address)[0] + 1
        key = client_network(address)
        self._failures[key] = (count, self.clock())
        self._failures.move_to_end(key)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return count

    def reset(self, address: str) -> None:
        """Reset the failures of an address to 0."""
        self._failures.pop(client_network(address), None)

    def _find(self, address: str) -> tuple[int, float]:
        count, last = self._failures.get(client_network(address), (0, 0.0))
        return (0, 0.0) if self.clock() - last > FORGET_AFTER_S else (count, last)


def find_user(app: Any, cookie_header: str) -> str | None:
    """Return the name of the login that a request's cookies belong to, None if there is none."""
    try:
        cookies = SimpleCookie(cookie_header)
    except CookieError:
        return None
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    tokens = [cookies[name].value for name in names if name in cookies]
    return next((str(app.tokens[token]) for token in tokens if token in app.tokens), None)


def is_logged_in(app: Any, cookie_header: str) -> bool:
    """Return whether a request's cookies belong to a login, or the Gradio app has no login."""
    return app.auth is None or find_user(app, cookie_header) is not None


def build_login_page(files: ClientFiles, language: Language, error: str = "", username: str = "") -> str:
    """Return the login page, which requests nothing else and needs no script.

    Args:
        files: of the client.
        language: of the page.
        error: message about the last attempt; "" for none.
        username: initial value of the name.
    """
    alert = f'<p role="alert">{escape(error)}</p>\n' if error else ""
    values = {
        **{key: escape(text) for key, text in LOGIN_TEXTS[language].items()},
        "lang": language.code,
        "error": alert,
        "username": escape(username),
        "icon": base64.b64encode(files.files["icon.svg"]).decode("ascii"),
    }
    page = files.text("login.html")
    for key, value in values.items():
        page = page.replace(f"{{{key}}}", value)
    return page

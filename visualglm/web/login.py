"""Who is logged in, and how soon an address may try again after wrong passwords."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

FREE_ATTEMPTS = 5
MAX_WAIT_S = 300.0
FORGET_S = 3600.0
MAX_ADDRESSES = 10_000


class LoginAttempts:
    """Counts failed logins of each client address. After FREE_ATTEMPTS, each one doubles the wait for the next.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # number and time of the last, oldest first

    def wait(self, address: str) -> float:
        """Return the seconds until the address may try again, 0 if it may now."""
        count, last = self._find(address)
        if count < FREE_ATTEMPTS:
            return 0.0
        pause = min(2.0 ** min(count - FREE_ATTEMPTS, 30), MAX_WAIT_S)
        return max(0.0, last + pause - self.clock())

    def fail(self, address: str) -> int:
        """Note a failed login; return how many there have been."""
        count = self._find(address)[0] + 1
        key = network_of(address)
        self._failures[key] = (count, self.clock())
        self._failures.move_to_end(key)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return count

    def succeed(self, address: str) -> None:
        """Forget the failures of an address."""
        self._failures.pop(network_of(address), None)

    def _find(self, address: str) -> tuple[int, float]:
        count, last = self._failures.get(network_of(address), (0, 0.0))
        return (0, 0.0) if self.clock() - last > FORGET_S else (count, last)


def network_of(address: str) -> str:
    """Return what one client can choose its addresses from: the /64 network of an IPv6 address, else the address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.ipv4_mapped:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def is_logged_in(app: Any, cookie_header: str) -> bool:
    """Return whether a request's cookies are those of a login to a Gradio app, or the app asks for none."""
    if app.auth is None:
        return True
    try:
        cookies = SimpleCookie(cookie_header)
    except CookieError:
        return False
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(name in cookies and cookies[name].value in app.tokens for name in names)

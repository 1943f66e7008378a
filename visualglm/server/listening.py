"""Listen at the configured address, and warn if it is open to other machines."""

import logging
import socket

from model import SettingError

from .request_log import log
from .settings import Settings, listens_locally


def warn_if_unauthenticated(settings: Settings) -> None:
    """Log a warning if other machines can use the server without an API key."""
    if not settings.api_keys and not listens_locally(settings):
        advice = "The server accepts requests from other machines without a key. Set --api-key, or listen at 127.0.0.1."
        log("no key", logging.WARNING, host=settings.host, advice=advice)


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens at the configured host and port.

    Raises:
        SettingError: the address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        address = f"{settings.host} port {settings.port}"
        raise SettingError(
            f"The server cannot listen at {address}: {error}. Choose another --host or --port."
        ) from error

"""Whether the server is for its own machine alone."""

from visualglm.local_address import listens_on_loopback

from .settings import Settings


def listens_locally(settings: Settings) -> bool:
    """Return whether nobody but this machine reaches the server."""
    return listens_on_loopback(settings.host)

"""The HTTP server: the original's `POST /`, chat completions under `/v1`, health checks and metrics."""

from .app import create_app
from .settings import Settings

__all__ = ["Settings", "create_app"]

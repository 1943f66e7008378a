"""The HTTP API: the original's `POST /`, chat completions under `/v1`, and what an operator needs."""

from .app import create_app
from .settings import Settings

__all__ = ["Settings", "create_app"]

"""Explain requests that match no route: which routes there are, and where they are described."""

from collections.abc import Iterator

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException

from .docs import DOCS
from .refusals import Refusal

PROTOCOL = "/v1"


def explain_unmatched(app: FastAPI, request: Request, error: HTTPException) -> Refusal:
    """Return the refusal of a request whose path (404) or method (405) the router did not find."""
    path = request.url.path
    described = f"{DOCS} describes this server."
    if error.status_code == 404:
        known = ", ".join(sorted(list_routes(app, PROTOCOL if path.startswith(PROTOCOL) else "")))
        message = f"There is no {path[:100]!r} here. There are: {known}. {described}"
        return Refusal(404, message, code="unknown_route")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method[:20]!r} is not allowed at {path[:100]!r}; send {allowed}. {described}"
        return Refusal(405, message, code="method_not_allowed")
    return Refusal(error.status_code, f"{error.detail}.")


def list_routes(app: FastAPI, prefix: str) -> Iterator[str]:
    """Yield the method and path of each documented route whose path starts with `prefix`."""
    for path, operations in app.openapi()["paths"].items():
        if path.startswith(prefix):
            yield from (f"{method.upper()} {path}" for method in operations)

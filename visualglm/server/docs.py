"""The documentation page /docs, served from local files, and the errors for requests that match no route."""

from collections.abc import Iterator
from importlib.resources import files

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException as AnyHTTPException

from .api_errors import ApiError

DOCS = "/docs"
SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"
KINDS = {SCRIPT: "text/javascript", STYLE: "text/css", ICON: "image/png"}


def make_docs_router(title: str, openapi_url: str) -> APIRouter:
    """Return the router of the page /docs and its assets, which are read into memory here.

    Args:
        title: of the page.
        openapi_url: path of the OpenAPI document.
    """
    router = APIRouter(include_in_schema=False)
    static = files("fastapi_offline") / "static"
    assets = {name: (static / name).read_bytes() for name in KINDS}
    # The URLs are relative to the page, so that they also work below a reverse proxy's path prefix.
    page = get_swagger_ui_html(
        openapi_url=openapi_url.removeprefix("/"),
        title=title,
        swagger_js_url=f"{DOCS.removeprefix('/')}/{SCRIPT}",
        swagger_css_url=f"{DOCS.removeprefix('/')}/{STYLE}",
        swagger_favicon_url=f"{DOCS.removeprefix('/')}/{ICON}",
    )

    @router.get(DOCS)
    async def show_page() -> Response:
        return page

    @router.get(DOCS + "/{name}")
    async def show_asset(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, "Not Found")
        return Response(assets[name], media_type=KINDS[name], headers={"Cache-Control": "max-age=86400"})

    return router


PROTOCOL = "/v1"


def route_error(app: FastAPI, request: Request, error: AnyHTTPException) -> ApiError:
    """Return the error for a request with an unknown path (404) or method (405)."""
    path = request.url.path
    documentation = f"{DOCS} documents the API."
    if error.status_code == 404:
        known = ", ".join(sorted(list_routes(app, PROTOCOL if path.startswith(PROTOCOL) else "")))
        message = f"There is no route {path[:100]!r}. The routes are: {known}. {documentation}"
        return ApiError(404, message, code="unknown_route")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method[:20]!r} is not allowed at {path[:100]!r}; send {allowed}. {documentation}"
        return ApiError(405, message, code="method_not_allowed")
    return ApiError(error.status_code, f"{error.detail}.")


def list_routes(app: FastAPI, prefix: str) -> Iterator[str]:
    """Yield the method and path of each documented route whose path starts with `prefix`."""
    for path, operations in app.openapi()["paths"].items():
        if path.startswith(prefix):
            yield from (f"{method.upper()} {path}" for method in operations)

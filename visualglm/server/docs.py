"""Serve the page under /docs from files of its own, and explain requests that match no route."""

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
    """Return the page that describes the API, and its files, which are read now and not when somebody asks.

    Args:
        title: of the page.
        openapi_url: where the document is that it shows.
    """
    router = APIRouter(include_in_schema=False)
    static = files("fastapi_offline") / "static"
    assets = {name: (static / name).read_bytes() for name in KINDS}
    # Addresses are seen from the page, so that they hold below a proxy's prefix, too.
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
    """Return the refusal of a request whose path (404) or method (405) the router did not find."""
    path = request.url.path
    described = f"{DOCS} describes this server."
    if error.status_code == 404:
        known = ", ".join(sorted(list_routes(app, PROTOCOL if path.startswith(PROTOCOL) else "")))
        message = f"There is no {path[:100]!r} here. There are: {known}. {described}"
        return ApiError(404, message, code="unknown_route")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method[:20]!r} is not allowed at {path[:100]!r}; send {allowed}. {described}"
        return ApiError(405, message, code="method_not_allowed")
    return ApiError(error.status_code, f"{error.detail}.")


def list_routes(app: FastAPI, prefix: str) -> Iterator[str]:
    """Yield the method and path of each documented route whose path starts with `prefix`."""
    for path, operations in app.openapi()["paths"].items():
        if path.startswith(prefix):
            yield from (f"{method.upper()} {path}" for method in operations)

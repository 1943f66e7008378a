"""The page under /docs, with all that it needs: its browser asks nobody else."""

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Response
from fastapi.openapi.docs import get_swagger_ui_html

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

"""The ASGI application: the routes and the middleware in front of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.cors import CORSMiddleware

from model import ChatModel

from . import native, openai
from .api_errors import ApiError, error_response
from .docs import make_docs_router, route_error
from .middleware import AuthMiddleware, BodyLimitMiddleware, RequestLogMiddleware
from .schemas import CompletionRequest, Health, NativeRequest
from .service import Service
from .settings import Settings

DESCRIPTION = (
    "Questions about images, in Chinese and English: `POST /` in the original's protocol, and chat completions."
)
REFERENCE = "#/components/schemas/{model}"


def create_app(model: ChatModel | None, settings: Settings) -> FastAPI:
    """Create the application that serves `model`.

    Args:
        model: generates the answers; None to set `app.state.service.model` later. Until then, questions get 503.
        settings: the limits.
    """
    service = Service(settings, model)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="VisualGLM",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from another site
        redoc_url=None,
    )
    app.state.service = service
    routers = (native.make_router(service), openai.make_router(service), make_operator_router(service))
    for router in (*routers, make_docs_router(app.title, str(app.openapi_url))):
        app.include_router(router)
    # The middleware that is added last runs first.
    app.add_middleware(BodyLimitMiddleware, service=service)
    app.add_middleware(AuthMiddleware, service=service)
    app.add_middleware(RequestLogMiddleware, service=service)
    if settings.cors_origins:  # outermost, so that scripts can read error responses, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    add_error_handlers(app, service)
    _document(app)
    return app


def make_operator_router(service: Service) -> APIRouter:
    """Return the router for operators: health, readiness and metrics."""
    router = APIRouter()

    @router.get("/health", response_model=Health)
    async def health() -> Any:
        """Report that the server is alive."""
        return {"status": "ok"}

    @router.get("/ready", response_model=Health, responses={503: {"model": Health}})
    async def ready() -> Any:
        """Report whether the server would accept a question now."""
        limiter = service.limiter
        states = (("stopping", limiter.closing), ("loading", service.model is None), ("busy", limiter.is_full))
        status = next((name for name, holds in states if holds), "ready")
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(await service.export_metrics(), media_type=CONTENT_TYPE_LATEST)

    return router


def add_error_handlers(app: FastAPI, service: Service) -> None:
    """Convert HTTP errors to responses in the format of their route's protocol."""

    @app.exception_handler(AnyHTTPException)
    async def handle_http(request: Request, error: HTTPException) -> Response:
        api_error = error if isinstance(error, ApiError) else route_error(app, request, error)
        api_error.headers = api_error.headers or error.headers
        record = request.state.record
        return error_response(service.report_error(api_error, record), record.path, record.id)


def _document(app: FastAPI) -> None:
    """Add the schemas of the request bodies to the OpenAPI document, because the routes parse the bodies themselves."""
    build = app.openapi
    _, bodies = models_json_schema(
        [(NativeRequest, "validation"), (CompletionRequest, "validation")], ref_template=REFERENCE
    )

    def openapi_with_bodies() -> dict[str, Any]:
        document = build()
        document["components"]["schemas"] |= bodies["$defs"]
        return document

    app.openapi = openapi_with_bodies  # type: ignore[method-assign]

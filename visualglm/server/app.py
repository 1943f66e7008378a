"""The application: the routes, behind the doors that every request passes."""

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
    "Questions about pictures, in Chinese and English: `POST /` as the original documents it, and chat completions."
)
REFERENCE = "#/components/schemas/{model}"


def create_app(model: ChatModel | None, settings: Settings) -> FastAPI:
    """Return the application that answers with `model`.

    Args:
        model: answers; None if it is put into `app.state.service.model` later, and requests get 503 until then.
        settings: what is allowed.
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
        docs_url=None,  # its page would have its browser ask elsewhere
        redoc_url=None,
    )
    app.state.service = service
    routers = (native.make_router(service), openai.make_router(service), make_operator_router(service))
    for router in (*routers, make_docs_router(app.title, str(app.openapi_url))):
        app.include_router(router)
    # The one that is added last is passed first.
    app.add_middleware(BodyLimitMiddleware, service=service)
    app.add_middleware(AuthMiddleware, service=service)
    app.add_middleware(RequestLogMiddleware, service=service)
    if settings.cors_origins:  # outside of all, so that a page's script can read refusals, too
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
    """Return the routes for whoever runs the server."""
    router = APIRouter()

    @router.get("/health", response_model=Health)
    async def health() -> Any:
        """Tell that the server is alive."""
        return {"status": "ok"}

    @router.get("/ready", response_model=Health, responses={503: {"model": Health}})
    async def ready() -> Any:
        """Tell whether the next question would be answered."""
        limiter = service.limiter
        states = (("stopping", limiter.closing), ("loading", service.model is None), ("busy", limiter.is_full))
        status = next((name for name, holds in states if holds), "ready")
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return counts and times for Prometheus."""
        return Response(service.metrics.export(), media_type=CONTENT_TYPE_LATEST)

    return router


def add_error_handlers(app: FastAPI, service: Service) -> None:
    """Let every error have the shape of its route's protocol."""

    @app.exception_handler(AnyHTTPException)
    async def handle_http(request: Request, error: HTTPException) -> Response:
        refusal = error if isinstance(error, ApiError) else route_error(app, request, error)
        refusal.headers = refusal.headers or error.headers
        record = request.state.record
        return error_response(service.report_error(refusal, record), record.path, record.id)


def _document(app: FastAPI) -> None:
    """Add to the OpenAPI document the bodies that the routes read themselves."""
    build = app.openapi
    _, bodies = models_json_schema(
        [(NativeRequest, "validation"), (CompletionRequest, "validation")], ref_template=REFERENCE
    )

    def openapi_with_bodies() -> dict[str, Any]:
        document = build()
        document["components"]["schemas"] |= bodies["$defs"]
        return document

    app.openapi = openapi_with_bodies  # type: ignore[method-assign]

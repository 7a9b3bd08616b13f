"""The HTTP application."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api.errors import add_error_handlers
from api.routes import audits, datasets, encoders, events, operations, webhooks
from api.schemas import Problem
from service.context import Context
from service.settings import Settings
from sslmem import __version__

DESCRIPTION = """Audits self-supervised vision encoders for memorization of their training images (SSLMem).

Upload encoders and a dataset, register roles, request an audit, follow it, read its summary and scores.
Every request but health and this documentation needs `Authorization: Bearer TOKEN`. Errors are problem details
(RFC 9457) with a stable `code`."""


def create_app(settings: Settings) -> FastAPI:
    """Builds the application.

    Raises:
        ValueError: a setting is missing.
    """
    context = Context.from_settings(settings, pool_size=20)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        context.close()

    app = FastAPI(title="sslmem", version=__version__, description=DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.context = context
    app.state.stopping = threading.Event()  # set by the server when streams shall end
    add_error_handlers(app)
    app.include_router(operations.public)
    for module in (encoders, datasets, audits, events, webhooks, operations):
        app.include_router(module.router)
    _document(app)
    return app


def _document(app: FastAPI) -> None:
    """Adds to the generated documentation what it cannot know: the problem schema and the bearer token."""
    generate = app.openapi

    def openapi() -> dict[str, object]:
        schema = generate()
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        schema["paths"]["/v1/health"]["get"]["security"] = []
        return schema

    app.openapi = openapi  # type: ignore[method-assign]

"""Every error leaves as problem details (RFC 9457) with a stable code; this is the one place that knows statuses."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.schemas import Problem
from service.database import UNAVAILABLE
from service.errors import DatabaseUnavailable, Kind, ServiceError
from sslmem.errors import SslmemError

logger = logging.getLogger(__name__)

STATUS: dict[Kind, HTTPStatus] = {
    "not-found": HTTPStatus.NOT_FOUND,
    "gone": HTTPStatus.GONE,
    "conflict": HTTPStatus.CONFLICT,
    "invalid": HTTPStatus.BAD_REQUEST,
    "unprocessable": HTTPStatus.UNPROCESSABLE_ENTITY,
    "too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


def problem(request: Request, status: int, code: str, detail: str, **more: Any) -> JSONResponse:  # noqa: ANN401
    """Renders an error."""
    body = Problem(
        type=f"urn:sslmem:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        instance=request.url.path,
        **more,
    )
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "5"
    return JSONResponse(
        body.model_dump(mode="json", exclude_none=True), status, headers, media_type="application/problem+json"
    )


class NothingMore(Exception):
    """A stream has ended for good; 204 tells clients not to come back."""


def add_error_handlers(app: FastAPI) -> None:
    """Registers the handlers of all kinds of errors."""

    @app.exception_handler(NothingMore)
    async def _nothing_more(_: Request, __: NothingMore) -> Response:
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.exception_handler(ServiceError)
    async def _service(request: Request, error: ServiceError) -> JSONResponse:
        return problem(request, STATUS[error.kind], error.code, error.detail, **error.more)

    @app.exception_handler(SslmemError)
    async def _science(request: Request, error: SslmemError) -> JSONResponse:
        return problem(request, HTTPStatus.BAD_REQUEST, error.code, error.detail)

    async def database(request: Request, error: Exception) -> JSONResponse:
        logger.error("the database does not answer: %s", error)
        gone = DatabaseUnavailable()
        return problem(request, STATUS[gone.kind], gone.code, gone.detail)

    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, database)

    @app.exception_handler(ClientDisconnect)
    async def _disconnect(request: Request, _: ClientDisconnect) -> JSONResponse:
        return problem(request, HTTPStatus.BAD_REQUEST, "upload-incomplete", "the upload broke off; send it again")

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"where": ".".join(str(part) for part in item["loc"]), "message": item["msg"]} for item in error.errors()
        ]
        detail = "; ".join(f"{item['where']}: {item['message']}" for item in errors[:3])
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, "request-invalid", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        response = problem(request, error.status_code, code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, _: Exception) -> JSONResponse:
        detail = "an unexpected error, which the service's log describes"
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", detail)


def already(model: Any) -> dict[int | str, dict[str, Any]]:  # noqa: ANN401  a model or an annotation
    """What a route's documentation says of asking again for what is there."""
    return {HTTPStatus.OK: {"model": model, "description": "There already; this is it"}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's documentation says of its errors; 401, 422, 500 and 503 can come of any."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, 401, 422, 500, 503})
    }

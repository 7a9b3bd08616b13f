"""Raw request bodies to artifacts: streamed, hashed and written off the event loop, bounded from the start."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from service.artifacts import ArtifactStore, IncomingArtifact
from service.errors import InvalidRequest, UploadTooLarge

BLOCK = 2 * 2**20


def raw_body(media_type: str) -> dict[str, Any]:
    """Documents a body that a route reads as a stream."""
    schema = {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def announced_digest(request: Request) -> str | None:
    """The digest in the header ``Content-Digest: sha-256=:BASE64:`` (RFC 9530), as ``sha256:HEX``.

    Raises:
        InvalidRequest: the header is there but has no digest of this form.
    """
    header = request.headers.get("Content-Digest")
    if header is None:
        return None
    values = {name.strip().lower(): value for name, _, value in (part.partition("=") for part in header.split(","))}
    try:
        digest = base64.b64decode(values.get("sha-256", "").strip().strip(":"), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise InvalidRequest("expected the header Content-Digest: sha-256=:BASE64: of the body")
    return f"sha256:{digest.hex()}"


@asynccontextmanager
async def received(request: Request, store: ArtifactStore, limit: int) -> AsyncIterator[IncomingArtifact]:
    """The body of a request as a complete file, which is dropped at the end unless it was placed in the store.

    Raises:
        UploadTooLarge: it is, or says that it is, larger than the limit.
        DigestMismatch: it is not what the header announced.
        InvalidRequest: it is empty, or a header is malformed.
        StorageFull: there is no room.
    """
    expected = announced_digest(request)
    length = request.headers.get("Content-Length", "")[:20]  # digits enough for any file
    if length.isdecimal() and int(length) > limit:
        raise UploadTooLarge(f"expected at most {limit} bytes; the upload announces {length}")
    with store.incoming(limit) as artifact:
        await _write(request, artifact)
        if artifact.num_bytes == 0:
            raise InvalidRequest("expected the file as the body of the request; the body is empty")
        await run_in_threadpool(artifact.finish, expected)
        yield artifact


async def _write(request: Request, artifact: IncomingArtifact) -> None:
    buffer = bytearray()
    async for data in request.stream():
        buffer += data
        if len(buffer) >= BLOCK:
            await run_in_threadpool(artifact.write, bytes(buffer))
            buffer.clear()
    await run_in_threadpool(artifact.write, bytes(buffer))


async def receive_bytes(request: Request, limit: int) -> bytes:
    """Returns the body of a request.

    Raises:
        UploadTooLarge: it is larger than the limit.
    """
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > limit:
            raise UploadTooLarge(f"expected at most {limit} bytes; more arrived")
    return bytes(body)

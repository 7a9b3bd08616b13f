"""Query parameters of listings."""

from typing import Annotated

from fastapi import Query

from service.listing import newest as page_of

LimitParam = Annotated[int, Query(ge=1, le=1000, description="Items per page.")]
CursorParam = Annotated[str | None, Query(max_length=500, description="The `next_cursor` of the page before.")]

__all__ = ["CursorParam", "LimitParam", "page_of"]

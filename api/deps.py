"""What routes ask for: the context, a session that commits before the answer leaves, and a valid token."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Header, Request

from service.context import Context
from service.database import Session
from service.tokens import check_token


def get_context(request: Request) -> Context:
    """The context of the application."""
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(get_context)]


def get_session(context: ContextDep) -> Iterator[Session]:
    """One transaction for the request."""
    with context.sessions.begin() as session:
        yield session


# scope="function": the transaction commits before the response starts, so that nothing acknowledged can be lost.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def authorize(context: ContextDep, authorization: Annotated[str | None, Header()] = None) -> None:
    """Requires a valid token, in a transaction of its own, so that an upload holds no connection.

    Raises:
        Unauthorized: there is none.
    """
    with context.sessions.begin() as session:
        check_token(session, authorization)

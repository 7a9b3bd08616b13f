"""What routes ask for: the context, a session that commits before the answer leaves, and a valid token."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

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


class AuthorizedRoute(APIRoute):
    """A route that requires a valid token before it reads anything of the request; a dependency would come after."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Puts the check before the route."""
        handle = super().get_route_handler()

        async def authorized(request: Request) -> Response:
            await run_in_threadpool(_authorize, get_context(request), request.headers.get("Authorization"))
            return await handle(request)

        return authorized


def _authorize(context: Context, authorization: str | None) -> None:
    # In a transaction of its own, so that an upload holds no connection.
    with context.sessions.begin() as session:
        check_token(session, authorization)

"""What routes ask for: the context, a session that commits before the answer leaves, and a valid token."""

import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from service.context import Context
from service.database import Session
from service.idempotency import Made, once
from service.tokens import check_token


def get_context(request: Request) -> Context:
    """The context of the application."""
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(get_context)]


def get_stopping(request: Request) -> threading.Event:
    """Set when the server stops."""
    stopping: threading.Event = request.app.state.stopping
    return stopping


StoppingDep = Annotated[threading.Event, Depends(get_stopping)]


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
            given = request.headers.get("Authorization")
            request.state.project = await run_in_threadpool(_authorize, get_context(request), given)
            return await handle(request)

        return authorized


def _authorize(context: Context, authorization: str | None) -> str:
    # In a transaction of its own, so that an upload holds no connection.
    with context.sessions.begin() as session:
        return check_token(session, authorization)


def get_project(request: Request) -> str:
    """Whose request it is: the name of its token. Tokens of one name share."""
    project: str = request.state.project
    return project


ProjectDep = Annotated[str, Depends(get_project)]


class Once:
    """Makes what a creating request asks for, once for each ``Idempotency-Key``."""

    def __init__(self, project: str, key: str | None) -> None:
        self._project, self._key = project, key

    def __call__(
        self, session: Session, request: dict[str, Any], model: type[Made], make: Callable[[], tuple[Made, bool]]
    ) -> tuple[Made, bool]:
        """See :func:`service.idempotency.once`; the request names its route and what came with it."""
        return once(session, self._project, self._key, request, model, make)


def get_once(
    project: ProjectDep,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            description="A key of your choice, best a UUID: the same request with it again gives what the first one "
            "made. It is kept for a week.",
        ),
    ] = None,
) -> Once:
    """What every creating request uses. The draft puts keys in quotes; without, they are the same."""
    if key is not None and len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    return Once(project, key)


OnceDep = Annotated[Once, Depends(get_once)]

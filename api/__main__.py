"""``python -m api`` serves the HTTP API."""

import uvicorn

from api.main import create_app
from service.logs import set_up_logging
from service.settings import get_settings


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests under way get 10 seconds to end."""
    settings = get_settings()
    set_up_logging(settings.log_level)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()

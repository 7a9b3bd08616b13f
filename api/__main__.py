"""``python -m api`` serves the HTTP API."""

import contextlib
import sys

from api.server import create_server
from service.logs import set_up_logging
from service.settings import get_settings


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests under way get 10 seconds to end, streams end at once."""
    settings = get_settings()
    set_up_logging(settings.log_level)
    server = create_server(settings, host=settings.host, port=settings.port, graceful_seconds=10)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()

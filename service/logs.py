"""Logging for the processes of the service: one line per event on standard error."""

import logging
import sys


def set_up_logging(level: str) -> None:
    """Sends all logs to standard error."""
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )

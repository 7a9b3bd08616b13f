"""``python -m worker.sweeper`` looks every few seconds for work that nobody has, and for what was left lying."""

import logging
import os
import signal
import socket
import threading
import time

from service import retention
from service.context import Context
from service.health import broker_answers
from service.logs import set_up_logging
from service.settings import get_settings
from service.sweep import sweep
from service.workers import beat_of_sweeper
from worker import courier

logger = logging.getLogger(__name__)


def run(context: Context, stop: threading.Event) -> None:
    """Sweeps until told to stop; a database that is away is waited for."""
    looked_at, name = float("-inf"), f"{socket.gethostname()}:{os.getpid()}"
    pause = 0.0  # the first look is at once
    while not stop.wait(pause):
        pause = context.settings.sweep_seconds
        try:
            broker = broker_answers(context)
            with context.sessions.begin() as session:
                beat_of_sweeper(session, name, broker_answers=broker)
            with context.sessions.begin() as session:
                moved = sweep(session, context.queue, context.settings, announce=broker)
            if moved:
                logger.info("%d rows freed, ended or announced again", moved)
            if time.monotonic() - looked_at > context.settings.retention_seconds:
                looked_at = time.monotonic()
                context.store.discard_abandoned()
                retention.apply(context)
        except Exception:
            logger.exception("the sweep failed; trying again")


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    settings = get_settings()
    set_up_logging(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    context = Context.from_settings(settings, pool_size=4)
    deliveries = threading.Thread(target=courier.run, args=(context, stop), daemon=True)
    deliveries.start()
    try:
        run(context, stop)
    finally:
        stop.set()
        deliveries.join(3)
        context.close()


if __name__ == "__main__":
    main()

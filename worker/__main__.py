"""``python -m worker`` works off the queue: one task at a time, in one child process."""

import os


def main() -> None:
    """Runs the worker until SIGTERM, at which the task that is running is handed back rather than waited for."""
    # Celery's name for that; it is read when Celery is imported.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
    from worker.app import create_app, worker_name  # noqa: PLC0415

    create_app().worker_main(
        [
            "worker",
            "--pool=prefork",
            "--concurrency=1",
            f"--hostname={worker_name().replace(':', '-')}@sslmem",
            "--without-gossip",
            "--without-heartbeat",  # the database has our own; this one would wait for a broker that is away
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


if __name__ == "__main__":
    main()

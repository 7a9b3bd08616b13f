"""``python -m worker`` works off the queue: one task at a time, in one child process."""

from worker.app import create_app, worker_name


def main() -> None:
    """Runs the worker until SIGTERM."""
    create_app().worker_main(
        [
            "worker",
            "--pool=prefork",
            "--concurrency=1",
            f"--hostname={worker_name().replace(':', '-')}@sslmem",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=WARNING",
        ]
    )


if __name__ == "__main__":
    main()

"""``python -m service``: run the whole service, migrate a database, create an API token, and checks for developers."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from psycopg.errors import UndefinedTable
from sqlalchemy.exc import OperationalError, ProgrammingError

from models.database import create_database_engine, session_factory
from service.embedded.postgres import Postgres
from service.embedded.process import ServiceStartError
from service.embedded.supervisor import Supervisor
from service.logs import set_up_logging
from service.migrate import differences, downgrade, upgrade
from service.settings import Settings, settings_page
from service.tokens import create_token

EXIT_NOT_STARTED = 2


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def up(_: Settings, arguments: argparse.Namespace) -> None:
    """Runs servers, API, worker and sweeper until Ctrl-C or SIGTERM."""
    changes = {"host": arguments.host, "port": arguments.port}
    supervisor = Supervisor(Settings(**{k: v for k, v in changes.items() if v is not None}), _say)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, supervisor.request_stop)
    supervisor.run()


def migrate(settings: Settings, _: argparse.Namespace) -> None:
    """Brings the database at SSLMEM_DATABASE_URL to the newest version."""
    upgrade(settings.require_database_url())


def token(settings: Settings, arguments: argparse.Namespace) -> None:
    """Creates an API token in the database at SSLMEM_DATABASE_URL and prints it, this once."""
    engine = create_database_engine(settings.require_database_url())
    try:
        with session_factory(engine).begin() as session:
            _say(create_token(session, arguments.name))
    except ProgrammingError as error:
        if not isinstance(error.orig, UndefinedTable):
            raise
        raise ValueError("the database has no tables yet; run python -m service migrate first") from error
    finally:
        engine.dispose()


def check_migrations(_: Settings, __: argparse.Namespace) -> None:
    """Checks on a temporary database that migrations and models agree, and that migrations go down and up again."""
    with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
        server = Postgres.start(Path(folder), Path(folder) / "postgres.log", durable=False)
        try:
            upgrade(server.url)
            found = differences(server.url)
            downgrade(server.url)
            upgrade(server.url)
        finally:
            server.stop()
    if found:
        raise ValueError("the models differ from the migrations; write a migration for: " + "; ".join(found))
    _say("Migrations and models agree.")


def show_settings(_: Settings, __: argparse.Namespace) -> None:
    """Prints what can be set by environment variables, as Markdown."""
    sys.stdout.write(settings_page())


def main() -> None:
    """Runs one of the commands; what is in the way is one line on standard error and status 2."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command in (up, migrate, token, show_settings, check_migrations):
        sub = commands.add_parser(command.__name__.replace("_", "-"), help=command.__doc__)
        sub.set_defaults(command=command)
        if command is up:
            sub.add_argument("--host", help="address to listen on; default 127.0.0.1 or SSLMEM_HOST")
            sub.add_argument("--port", type=int, help="port to listen on; default 8000 or SSLMEM_PORT")
        if command is token:
            sub.add_argument("name", help="whose it is, for people")
    arguments = parser.parse_args()
    try:
        set_up_logging("WARNING")
        arguments.command(Settings(), arguments)
    except (ServiceStartError, ValueError) as error:
        sys.exit(_failed(str(error).replace("\n", " ")))
    except OperationalError as error:
        sys.exit(_failed(f"expected a database that answers at SSLMEM_DATABASE_URL: {str(error.orig).splitlines()[0]}"))


def _failed(message: str) -> int:
    sys.stderr.write(f"sslmem: {message}\n")
    return EXIT_NOT_STARTED


if __name__ == "__main__":
    main()

"""The command ``sslmem``: one place where errors become exit statuses."""

import sys
import traceback
from typing import NoReturn

import typer

from sslmem import __version__
from sslmem.cli import audits, datasets, encoders, webhooks
from sslmem.cli.connection import Token, Url, connect
from sslmem.cli.gate import gate
from sslmem.cli.inspect import inspect
from sslmem.cli.merge import merge
from sslmem.cli.policy import check_policy
from sslmem.cli.score import score
from sslmem.cli.storage import retention, storage
from sslmem.cli.tables import print_resources
from sslmem.cli.verify import verify
from sslmem.errors import SslmemError

EXIT_NOT_EVALUATED = 2
SCORING = ("torch", "torchvision", "timm", "numpy", "scipy", "pyarrow", "jinja2", "PIL", "safetensors")
EXTRAS = dict.fromkeys(SCORING, "score") | {"cryptography": "sign", "securesystemslib": "sign"}
VARIADIC = frozenset({"--target", "--reference"})

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Audits self-supervised vision encoders for memorization of their training images (SSLMem).",
)
app.command("score")(score)
app.command("inspect")(inspect)
app.command("merge")(merge)
app.command("gate")(gate)
app.command("verify")(verify)
app.command("check-policy")(check_policy)
app.command("storage")(storage)
app.command("retention")(retention)
app.add_typer(encoders.app, name="encoders")
app.add_typer(datasets.app, name="datasets")
app.add_typer(audits.app, name="audits")
app.add_typer(webhooks.app, name="webhooks")


@app.command()
def workers(url: Url = None, token: Token = None) -> None:
    """Lists the workers seen in the last week."""
    with connect(url, token) as client:
        print_resources(client.items("/v1/workers"), ("id", "device", "queues", "alive", "busy_with", "last_seen_at"))


@app.command()
def queues(url: Url = None, token: Token = None) -> None:
    """Shows how much waits for workers, by queue, and why it does not move if so."""
    with connect(url, token) as client:
        for queue in client.items("/v1/queues"):
            print(
                f"{queue['name']}: {queue['workers_alive']} alive; waiting: {queue['chunks_waiting']} chunks of "
                f"{queue['audits_open']} audits, {queue['checks_waiting']} checks; running: {queue['chunks_running']} "
                f"chunks, {queue['checks_running']} checks{'; ' + queue['reason'] if queue['reason'] else ''}"
            )


@app.command()
def version() -> None:
    """Prints the version."""
    print(__version__)


def spread(arguments: list[str]) -> list[str]:
    """Repeats an option that takes several values before each: ``--target a b`` as ``--target a --target b``."""
    result: list[str] = []
    option = None
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in VARIADIC else None
            result.append(argument)
        elif option is not None and result[-1] != option:
            result += [option, argument]
        else:
            result.append(argument)
    return result


def main() -> None:
    """Runs the command; an error about the input is one line on standard error and status 2."""
    try:
        app(spread(sys.argv[1:]))
    except SslmemError as error:
        print(f"sslmem: {error.detail} [{error.code}]", file=sys.stderr)
        sys.exit(EXIT_NOT_EVALUATED)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"sslmem: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(EXIT_NOT_EVALUATED)
    except KeyboardInterrupt:
        print("sslmem: interrupted", file=sys.stderr)
        sys.exit(EXIT_NOT_EVALUATED)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            _unexpected()
        print(f"sslmem: this needs {error.name}: pip install 'sslmem[{extra}]'", file=sys.stderr)
        sys.exit(EXIT_NOT_EVALUATED)
    except Exception:  # noqa: BLE001  the interpreter would end with 1, which says that a policy was violated
        _unexpected()


def _unexpected() -> NoReturn:
    traceback.print_exc()
    print("sslmem: an unexpected error; nothing was decided", file=sys.stderr)
    sys.exit(EXIT_NOT_EVALUATED)

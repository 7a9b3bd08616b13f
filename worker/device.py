"""Where a worker computes, found without loading torch into its parent process."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.audit import QUEUES
from service.queue import DEFAULT

ASK_TORCH = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
ASK_SECONDS = 120


@dataclass(frozen=True)
class Device:
    """A device by its name, and the queues that a worker on it serves."""

    name: str
    queues: Sequence[str]


def find_device(setting: str) -> Device:
    """The device that ``auto``, ``cpu`` or ``cuda[:N]`` stands for here.

    Raises:
        SystemExit: a GPU is asked for and there is none: the worker would take the audits that need one, and fail them.
    """
    if setting == "auto":
        name = _best()
    elif setting == "cpu":
        name = "cpu"
    elif (name := _ask_torch()) == "cpu":
        raise SystemExit(
            f"sslmem: SSLMEM_DEVICE is {setting}, and torch finds no GPU here; expected one, or cpu or auto"
        )
    return Device(name, (DEFAULT,) if name == "cpu" else QUEUES)


def _best() -> str:
    # Without a driver torch need not be asked, which takes seconds.
    return _ask_torch() if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"


def _ask_torch() -> str:
    ask = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False, timeout=ASK_SECONDS
    )
    return ask.stdout.strip() or "cpu"

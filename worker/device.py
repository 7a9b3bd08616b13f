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
    """The device that ``auto``, ``cpu`` or ``cuda[:N]`` stands for here."""
    name = _best() if setting == "auto" else setting
    return Device(name, (DEFAULT,) if name == "cpu" else QUEUES)


def _best() -> str:
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"  # torch need not be asked, which takes seconds
    ask = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False, timeout=ASK_SECONDS
    )
    return ask.stdout.strip() or "cpu"

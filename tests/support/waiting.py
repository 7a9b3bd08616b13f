"""Waiting with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(look: Callable[[], Value], seconds: float = 60.0, interval: float = 0.02) -> Value:
    """Looks until it sees something true, and returns that."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"after {seconds} seconds still {seen!r}"
        time.sleep(interval)
    return seen

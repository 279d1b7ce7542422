"""Waiting for a condition with a deadline, instead of for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event


def wait_until(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    never = Event()
    while not condition():
        if time.monotonic() > deadline:
            msg = f"waited {seconds:g} s in vain until {what}"
            raise AssertionError(msg)
        never.wait(every)

"""Time, injected: everything that waits or dates asks a clock, so that tests need no sleeping."""

from __future__ import annotations

import time
from threading import Event
from typing import Protocol


class Clock(Protocol):
    """What the engine needs of time."""

    def now(self) -> float:
        """Seconds since the epoch, UTC; for what is stored."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; for what is measured."""
        ...

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until ``event`` is set or the time is over; returns whether it is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait on the event."""
        return event.wait(seconds)

"""What SIGTERM and SIGINT do: the first one drains, the second one leaves at once."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from flytelineage.errors import ExitCode

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FLUSH_SECONDS = 0.5


class StopSignals:
    """Context manager that handles SIGTERM and SIGINT, and restores the earlier handlers when it is left.

    The first signal calls what :meth:`on_stop` was given; before that there is nothing to drain, and it raises
    ``SystemExit(0)``. The second one ends the process with :attr:`ExitCode.INTERRUPTED`. Main thread only.

    Attributes:
        received: the first signal's name, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._stop: Callable[[], object] | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def on_stop(self, stop: Callable[[], object]) -> None:
        """Set what the first signal calls: quick, and safe inside a signal handler."""
        self._stop = stop

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        for number in _SIGNALS:
            self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # no logging here: the interrupted code may be inside the log stream's own write
        if self.received is not None:
            leave_at_once(ExitCode.INTERRUPTED, b"flytelineage: a second signal: left at once, nothing is lost\n")
        self.received = signal.Signals(number).name
        if self._stop is None:
            raise SystemExit(ExitCode.OK)
        self._stop()


def leave_at_once(code: int, message: bytes = b"") -> None:
    """End the process now: flush the log as far as its locks allow, run nothing else.

    Args:
        code: the process's exit code.
        message: written to stderr first.
    """
    if message:
        os.write(2, message)
    for handler in logging.getLogger().handlers:
        # another thread may hold the lock, blocked in its write
        if handler.lock is not None and handler.lock.acquire(timeout=_FLUSH_SECONDS):
            handler.flush()
    os._exit(code)

"""Logging of the whole process: one handler, one format, on stderr; stdout is for results.

Our modules log below the logger ``flytelineage``, which takes the level of ``--log-level``. Libraries' loggers share
the handler and stay at WARNING: some of them print request headers, and so credentials, at DEBUG.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from flytelineage.redaction import Redactor

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
DATE_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
LOGGER = "flytelineage"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class StderrHandler(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment: a progress bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, flushed."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001  (as every handler of the standard library)
            self.handleError(record)


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, and hides secrets in the result.

    ``%(action)s`` may be used in the format: the stable name of what happened, or ``-``.

    Args:
        fmt: %-style format.
        datefmt: format of ``%(asctime)s``, as for ``time.strftime``.
        redactor: what knows this process's secrets.
    """

    def __init__(self, fmt: str, datefmt: str | None = None, redactor: Redactor | None = None) -> None:
        super().__init__(fmt, datefmt, defaults={"action": "-"})
        self._redactor = redactor or Redactor()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback's lines."""
        return self._redactor.text(super().format(record))


def logging_config(level: int, fmt: str, datefmt: str | None, redactor: Redactor) -> dict[str, Any]:
    """Return the process's configuration for :func:`logging.config.dictConfig`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"console": {"()": RedactingFormatter, "fmt": fmt, "datefmt": datefmt, "redactor": redactor}},
        "handlers": {"console": {"()": StderrHandler, "formatter": "console"}},
        "root": {"level": max(level, logging.WARNING), "handlers": ["console"]},
        "loggers": {LOGGER: {"level": level}},
    }


def check_format(fmt: str) -> None:
    """Format one made-up record.

    Raises:
        ValueError: the format is wrong, or names a field that records do not have.
    """
    record = logging.LogRecord(LOGGER, logging.INFO, __file__, 1, "message", (), None)
    RedactingFormatter(fmt).format(record)

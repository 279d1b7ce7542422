"""Lineage as JSON lines in a file: for looking at, for loading elsewhere, and the smallest real target.

One line a change, appended::

    {"kind": "task", "key": "...", "revision": 7, "removed": false, "entity": {...}}

``entity`` has the form of ``flytelineage export``; it is null when ``removed``. The state of an entity is its line with
the greatest revision: :func:`read_state` reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from traitlets import Unicode

from flytelineage.documents import to_document
from flytelineage.errors import ConfigurationError, TargetUnavailableError
from flytelineage.targets.base import Change, Target


class FileTarget(Target):
    """Appends every change to a file of JSON lines."""

    path = Unicode("lineage.jsonl", help="File that changes are appended to; created with mode 0600.").tag(config=True)

    _file: IO[bytes] | None = None
    _torn = False
    """A write ended halfway: the next must not be glued to it."""

    def open(self) -> None:
        """Open the file for appending.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            msg = f"FileTarget.path {self.path!r} cannot be written: {error.strerror}."
            raise ConfigurationError(msg) from error
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        # A process that was killed may have left half a line: the next must not be glued to it.
        if self._file.seek(0, os.SEEK_END) and os.pread(descriptor, 1, self._file.tell() - 1) != b"\n":
            self._file.write(b"\n")

    def send(self, change: Change) -> None:
        """Append one line."""
        self._write([change])

    def send_all(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
        """Append the lines of all in one write."""
        try:
            self._write(changes)
        except TargetUnavailableError as error:
            return [error] * len(changes)
        return [None] * len(changes)

    def _write(self, changes: Iterable[Change]) -> None:
        if self._file is None:
            msg = f"{self.path} is not open"
            raise TargetUnavailableError(msg)
        lines = b"\n" * self._torn + b"".join(_line(change) for change in changes)
        written = 0
        try:
            while written < len(lines):
                written += self._file.write(lines[written:])
            self._torn = False
            os.fsync(self._file.fileno())
        except OSError as error:
            self._torn = self._torn or written > 0
            msg = f"{self.path} cannot be written: {error.strerror}"
            raise TargetUnavailableError(msg) from error

    def close(self, timeout: float) -> bool:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return True


def _line(change: Change) -> bytes:
    document = {
        "kind": change.kind.value,
        "key": change.key,
        "revision": change.revision,
        "removed": change.entity is None,
        "entity": None if change.entity is None else to_document(change.entity),
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def read_state(lines: Iterable[str]) -> dict[tuple[str, str], Any]:
    """What a file of changes says in the end.

    Args:
        lines: of the file; half a line, left by a killed process, is skipped.

    Returns:
        By kind and key, the entity's document of the greatest revision; without those removed.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        try:
            change = json.loads(line)
        except ValueError:
            continue
        key = (change["kind"], change["key"])
        if key not in newest or change["revision"] >= newest[key]["revision"]:
            newest[key] = change
    return {key: change["entity"] for key, change in newest.items() if not change["removed"]}

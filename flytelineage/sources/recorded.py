"""Recorded messages from files: one JSON-encoded message body a line, as a queue would deliver them."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from traitlets import List, Unicode

from flytelineage.errors import ConfigurationError
from flytelineage.sources.base import Message, Source


class RecordedSource(Source):
    """Reads ``*.jsonl`` files, or all of them below folders, in the order of their names; then it is exhausted."""

    paths = List(Unicode(), help="Files, or folders whose *.jsonl files are read.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_size = 100
        self.total = 0
        """Messages in all files, after :meth:`open`."""
        self._messages: Iterator[Message] = iter(())
        self._lock = threading.Lock()
        self._again: deque[Message] = deque()
        self._ended = False

    def open(self) -> None:
        """Find the files and count their messages.

        Raises:
            ConfigurationError: a path is not there, or holds no message.
        """
        files = [file for path in self.paths for file in _files(Path(path))]
        try:
            self.total = sum(1 for file in files for _ in _lines(file))
        except (OSError, UnicodeDecodeError) as error:
            msg = f"Recorded messages cannot be read: {error}."
            raise ConfigurationError(msg) from error
        if not self.total:
            names = ", ".join(self.paths)
            msg = f"There is no recorded message in {names}: one JSON-encoded SQS body a line is expected, in *.jsonl."
            raise ConfigurationError(msg)
        self._messages = (message for file in files for message in _read(file))

    def receive(self, stop: threading.Event) -> Sequence[Message]:
        """The next messages; never waits."""
        with self._lock:
            batch = [self._again.popleft() for _ in range(min(self.batch_size, len(self._again)))]
            for message in self._messages:
                batch.append(message)
                if len(batch) >= self.batch_size:
                    return batch
            self._ended = True
            return batch

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Recordings stay."""

    def release(self, messages: Sequence[Message]) -> None:
        """Deliver again what could not be committed."""
        with self._lock:
            self._again.extend(messages)

    @property
    def exhausted(self) -> bool:
        """Whether the last file has ended, and nothing is to be delivered again."""
        with self._lock:
            return self._ended and not self._again


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*.jsonl") if file.is_file())
    if not path.exists():
        msg = f"There is no file or folder {path} to replay."
        raise ConfigurationError(msg)
    return [path]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def _read(file: Path) -> Iterator[Message]:
    for number, line in _lines(file):
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            body = None
        # A line that is no JSON string goes the way of any message that is no event: it is kept with a reason.
        yield Message(body if isinstance(body, str) else line, message_id=f"{file.name}:{number}")

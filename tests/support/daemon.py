"""The daemon under test: in this process, for speed, or as the real process that users start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from typing import IO, Any

from flytelineage.catalog.export import export_document
from flytelineage.engine.daemon import Daemon, Progress, Summary
from flytelineage.engine.workflow_events import WorkflowEvents
from flytelineage.errors import ExitCode
from flytelineage.inbox.sql import Inbox
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.sources.sqs import SQSSource
from flytelineage.storage import Storage
from tests.support.aws import ENVIRONMENT, REGION, AwsEmulator, Queue
from tests.support.expected import Document
from tests.support.waiting import wait_until

SETTLE_SECONDS = 0.2
"""Long enough for a batch of a case's messages to follow the last one; complete executions wait for nothing else."""


def export(database: Path) -> Document:
    """The export of a database, read as ``flytelineage export`` reads it."""
    inbox = Inbox(url=f"sqlite:///{database}")
    inbox.open(readonly=True)
    try:
        return export_document(inbox)
    finally:
        inbox.close()


@dataclass
class RunningDaemon:
    """A daemon in a thread of this process."""

    daemon: Daemon
    aws: AwsEmulator
    queue: Queue
    database: Path
    _thread: threading.Thread = field(init=False)
    _progress: list[Progress] = field(default_factory=list)
    _outcome: list[ExitCode | BaseException] = field(default_factory=list)

    def start(self) -> None:
        """Start it."""
        self._thread = threading.Thread(target=self._run, name="daemon-under-test")
        self._thread.start()

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Wait until the queue is empty and every execution that can be derived is."""
        wait_until(lambda: self._check() and self.aws.depth(self.queue) == 0, seconds, "the queue is empty")
        # What the engine says after the queue was empty; an older report may be of before the last commit.
        said = len(self._progress)
        wait_until(
            lambda: self._check() and len(self._progress) > said + 1 and self._progress[-1].pending == 0,
            seconds,
            "no execution is due",
        )

    def stop(self) -> ExitCode:
        """Stop it, and return what it says."""
        self.daemon.stop()
        self._thread.join(40)
        assert not self._thread.is_alive(), "the daemon does not stop"
        (outcome,) = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def summary(self) -> Summary:
        """What it did."""
        return self.daemon.summary()

    def _run(self) -> None:
        try:
            self._outcome.append(self.daemon.run(self._progress.append))
        except BaseException as error:  # noqa: BLE001  (handed to the test's thread)
            self._outcome.append(error)

    def _check(self) -> bool:
        assert self._thread.is_alive(), f"the daemon ended by itself: {self._outcome}"
        return True


@contextmanager
def running_daemon(aws: AwsEmulator, queue: Queue, database: Path, **source: Any) -> Iterator[RunningDaemon]:
    """Run a daemon on a queue of the emulator until the block ends."""
    storage = Storage(endpoint_url=aws.endpoint, region=REGION)
    running = RunningDaemon(
        Daemon(
            source=SQSSource(queue=queue.url, region=REGION, endpoint_url=aws.endpoint, wait_seconds=1, **source),
            inbox=Inbox(url=f"sqlite:///{database}"),
            storage=storage,
            schemas=SchemaReader(storage=storage),
            events=WorkflowEvents(settle_seconds=SETTLE_SECONDS),
            shutdown_timeout=20.0,
        ),
        aws,
        queue,
        database,
    )
    running.start()
    try:
        yield running
    finally:
        # also when it ended by itself: its threads may not have
        running.daemon.stop()
        running._thread.join(40)


@dataclass
class Process:
    """``python -m flytelineage`` on a queue of the emulator, in a folder of its own."""

    aws: AwsEmulator
    queue: Queue
    folder: Path
    options: Sequence[str] = ()
    _said_before: int = 0
    _popen: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    @property
    def database(self) -> Path:
        """The database file."""
        return self.folder / "flytelineage.db"

    @property
    def log(self) -> Path:
        """What all its processes said."""
        return self.folder / "log.txt"

    def start(self) -> None:
        """Start one; what the last one left in the folder is what it finds."""
        self.folder.mkdir(exist_ok=True)
        self._log = self.log.open("ab")
        self._said_before = self._log.tell()
        arguments = [
            f"--sqs_queue={self.queue.url}",
            "--SQSSource.visibility_timeout_seconds=2",
            "--SQSSource.wait_seconds=1",
            f"--Storage.region={REGION}",
            f"--WorkflowEvents.settle_seconds={SETTLE_SECONDS}",
            *self.options,
        ]
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "flytelineage", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": self.aws.endpoint},
        )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def output(self) -> str:
        """The end of what it said, for failures."""
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    def kill(self) -> int:
        """SIGKILL; returns the exit status."""
        assert self._popen is not None
        self._popen.kill()
        return self._ended(10)

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._popen is not None
        self._popen.send_signal(number)

    def terminate(self, number: int = SIGTERM, seconds: float = 30.0) -> int:
        """Ask it to stop, as soon as it can be asked, and wait for its end; returns the exit status.

        A signal during the interpreter's own start just ends the process: nothing has begun that could be drained.
        """
        wait_until(self._has_begun, 30, "the process handles signals")
        self.signal(number)
        return self._ended(seconds)

    def _has_begun(self) -> bool:
        assert self.is_running, f"it ended by itself:\n{self.output}"
        return b" starts." in self.log.read_bytes()[self._said_before :]

    def wait(self, seconds: float) -> int:
        """Wait for the end; returns the exit status."""
        return self._ended(seconds)

    def close(self) -> None:
        """Leave no process behind."""
        if self.is_running:
            self.kill()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _ended(self, seconds: float) -> int:
        assert self._popen is not None
        try:
            status = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            msg = f"the process has not ended after {seconds:g} s:\n{self.output}"
            raise AssertionError(msg) from None
        if self._log is not None:
            self._log.close()
            self._log = None
        return status

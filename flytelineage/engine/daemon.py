"""The loop: receivers, deriver and deliverers in threads, watched by the one that runs the daemon.

Who stops when, and why (DESIGN.md 7): the receivers first, so that nothing new comes; they commit and delete what
they have. Then the deriver after its batch and the deliverers after theirs; what is left is due again at the next
start. Then the targets are closed, which flushes them, and the inbox last, because everybody writes to it.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from traitlets.config import LoggingConfigurable

from flytelineage.catalog.reader import CatalogReader
from flytelineage.clock import Clock, SystemClock
from flytelineage.engine.deliveries import Deliverer, Scheduler, counts_of
from flytelineage.engine.deriver import Deriver
from flytelineage.engine.receiver import Receiver
from flytelineage.engine.workflow_events import WorkflowEvents
from flytelineage.errors import ExitCode
from flytelineage.inbox import schema
from flytelineage.inbox.sql import Inbox
from flytelineage.lineage.reading import ObjectReader, PooledReader, Reading
from flytelineage.lineage.schemas import SchemaReader
from flytelineage.sources.base import Source
from flytelineage.storage import Storage

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.25
"""How often progress is reported and threads are looked after."""
_IDLE_SECONDS: Final = 1.0
"""How long a thread without work sleeps at most, unless it is woken."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the daemon is; counts since its start."""

    messages: int
    derived: int
    pending: int
    """Executions that are due."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a daemon did since its start, and what its catalog holds."""

    messages: int
    events: int
    duplicates: int
    dead_letters: int
    executions: int
    derived: int
    runs: int
    pipelines: int
    tasks: int
    datasets: int
    deliveries_sent: int
    deliveries_pending: int

    def as_dict(self) -> dict[str, int]:
        """As JSON values."""
        return asdict(self)


def tune_garbage_collection() -> None:
    """Make the cyclic collector rare: for the process that runs a daemon, before it does.

    An execution of thousands of nodes is tens of thousands of live objects, none of them in a cycle; at Python's
    defaults a third of the time that it takes to derive goes into looking for cycles again and again
    (docs/benchmarks.md). What is loaded by now stays for good and is not looked at any more.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class Daemon(LoggingConfigurable):
    """Drains a source into the inbox, derives lineage, and delivers it.

    Args:
        source: unopened.
        inbox: unopened.
        storage: for literal maps and data files.
        schemas: reads data files' schemas.
        events: options of settling, and the targets.
        instance: part of every key.
        shutdown_timeout: seconds for stopping.
        objects: reads objects instead of ``storage`` and ``schemas``; for tests and benchmarks.
        clock: for tests.
    """

    def __init__(
        self,
        *,
        source: Source,
        inbox: Inbox,
        storage: Storage,
        schemas: SchemaReader,
        events: WorkflowEvents,
        instance: str = "",
        shutdown_timeout: float = 25.0,
        objects: ObjectReader | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._source = source
        self._inbox = inbox
        self._storage = storage
        self._schemas = schemas
        self._events = events
        self._instance = instance
        self._shutdown_timeout = shutdown_timeout
        self._objects = objects
        self._clock = clock or SystemClock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._failed: list[str] = []
        self._receivers: list[Receiver] = []
        self._deliverers: list[Deliverer] = []
        self._deriver: Deriver | None = None
        self._summary: Summary | None = None
        self._receiving: list[threading.Thread] = []
        self._merged: list[threading.Event] = []

    def stop(self) -> None:
        """Begin to drain. May be called from any thread or signal handler, any number of times."""
        self._stop.set()
        self._wake.set()

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> ExitCode:
        """Run until :meth:`stop` is called, or until the source is exhausted and all is derived and delivered.

        Args:
            on_progress: called several times a second, by this thread.

        Returns:
            OK when everything ended in time; WORKER_DIED when a thread that ingestion needs has died; INCOMPLETE when
            the shutdown timeout was over, or deliveries of a finite source still fail. Nothing is lost in any case.

        Raises:
            ConfigurationError: something cannot be opened.
        """
        targets = self._events.make_targets()
        opened = []
        try:
            self._inbox.open(instance=self._instance, settle=self._events.settle, clock=self._clock)
            for target in targets:
                target.open()
                opened.append(target)
            self._source.open()
            scheduler = Scheduler([target.name for target in targets], self._clock)
            self._inbox.writer.run(scheduler.seed)
        except BaseException:
            for target in opened:
                target.close(0.0)
            self._source.close()
            self._inbox.close()
            raise
        pooled = None if self._objects is not None else PooledReader(self._storage, self._schemas)
        objects = self._objects or pooled
        assert objects is not None  # noqa: S101  (one of both)
        self._merged = [threading.Event() for _ in targets]
        self._deriver = Deriver(
            self._inbox, Reading(objects), scheduler, self._events, self._clock, on_merged=self._tell_deliverers
        )
        self._receivers = [Receiver(self._source, self._inbox, self._clock) for _ in range(self._source.receivers)]
        self._deliverers = [Deliverer(target, self._inbox, self._clock) for target in targets]
        self._receiving = receiving = [
            self._thread(f"receiver-{number}", lambda r=receiver: r.run(self._stop))  # type: ignore[misc]
            for number, receiver in enumerate(self._receivers)
        ]
        deriving = self._thread("deriver", self._derive)
        delivering = [
            self._thread(f"target-{deliverer.target.name}", lambda d=deliverer, e=event: self._deliver(d, e))  # type: ignore[misc]
            for deliverer, event in zip(self._deliverers, self._merged, strict=True)
            if self._events.emit
        ]
        log.info(
            "Reading %s into %s, targets: %s", type(self._source).__name__, self._inbox.database,
            ", ".join(target.name for target in targets) or "none",
            extra={"action": "started"},
        )  # fmt: skip
        threads = [*receiving, deriving, *delivering]
        late: list[str] = []
        flushed: list[bool] = []
        try:
            for thread in threads:
                thread.start()
            self._supervise(receiving, deriving, on_progress)
        finally:
            deadline = self._clock.monotonic() + self._shutdown_timeout
            self.stop()
            self._tell_deliverers()
            late = self._join(threads, deadline)
            flushed = [target.close(max(0.0, deadline - self._clock.monotonic())) for target in targets]
            if pooled is not None:
                pooled.close()
            if not late:
                self._source.close()
                if self._source.exhausted:
                    self._summary = self.summary()
                self._inbox.close()
        if late:
            log.warning(
                "Stopped without waiting for %s; what they had is done again", ", ".join(late), extra={"action": "late"}
            )
        if self._failed:
            return ExitCode.WORKER_DIED
        left = self._summary is not None and self._events.emit and self._summary.deliveries_pending
        return ExitCode.OK if all(flushed) and not left and not late else ExitCode.INCOMPLETE

    def summary(self) -> Summary:
        """What was done, and what there is; after :meth:`run` on a finite source, as of its end."""
        if self._summary is not None:
            return self._summary
        names = [deliverer.target.name for deliverer in self._deliverers]
        tables = self._inbox.counts_of([schema.execution, schema.run, schema.pipeline])
        counts = self._inbox.counts
        with self._inbox.database.snapshot() as connection:
            tasks, datasets = CatalogReader(connection).count()
        return Summary(
            messages=sum(receiver.counts.messages for receiver in self._receivers),
            events=counts.events,
            duplicates=counts.duplicates,
            dead_letters=counts.dead_letters + (self._deriver.counts.dead_letters if self._deriver else 0),
            executions=tables["execution"],
            derived=self._deriver.counts.derived if self._deriver else 0,
            runs=tables["run"],
            pipelines=tables["pipeline"],
            tasks=tasks,
            datasets=datasets,
            deliveries_sent=sum(deliverer.counts.sent for deliverer in self._deliverers),
            deliveries_pending=counts_of(self._inbox, names)[0] if names else 0,
        )

    # -- threads -----------------------------------------------------------------------------------------------------

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException:
                log.critical(
                    "The thread %s died; the process stops, and nothing is lost", name,
                    exc_info=True, extra={"action": "worker_died", "worker": name},
                )  # fmt: skip
                self._failed.append(name)
                self._wake.set()

        return threading.Thread(target=run, name=name)

    def _supervise(
        self,
        receiving: list[threading.Thread],
        deriving: threading.Thread,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Wait for a stop, for a death, or for the end of a finite source's work."""
        while not (self._stop.is_set() or self._failed):
            if on_progress is not None:
                on_progress(self._progress())
            if not any(thread.is_alive() for thread in (*receiving, deriving)) and self._is_delivered():
                break
            if not self._inbox.writer.alive:
                log.critical("The writer died; the process stops", extra={"action": "worker_died", "worker": "writer"})
                self._failed.append("writer")
            self._wake.wait(_TICK_SECONDS)
        if on_progress is not None and not self._failed:
            on_progress(self._progress())

    def _progress(self) -> Progress:
        pending = self._inbox.database.connect().exec_driver_sql("SELECT count(*) FROM execution WHERE due IS NOT NULL")
        return Progress(
            messages=sum(receiver.counts.messages for receiver in self._receivers),
            derived=self._deriver.counts.derived if self._deriver else 0,
            pending=int(pending.scalar_one()),
        )

    def _is_delivered(self) -> bool:
        """Whether every delivery was made, or has at least been tried: a target that is down is not waited for."""
        if not self._deliverers or not self._events.emit:
            return True
        due, failed = counts_of(self._inbox, [deliverer.target.name for deliverer in self._deliverers])
        return due == failed

    def _derive(self) -> None:
        """The deriver's thread."""
        assert self._deriver is not None  # noqa: S101  (made before the thread)
        while not self._stop.is_set():
            ended = self._source.exhausted and not self._receives()
            draining = any(receiver.backlogged for receiver in self._receivers)
            if self._deriver.step(draining=draining, ended=ended):
                continue
            if ended:
                if self._inbox.is_idle():
                    return
                due = self._inbox.next_due()
                self._stop.wait(min(_IDLE_SECONDS, max(0.01, (due or 0.0) - self._clock.now())))
                continue
            due = self._inbox.next_due()
            wait = _IDLE_SECONDS if due is None else min(_IDLE_SECONDS, max(0.02, due - self._clock.now()))
            self._stop.wait(min(wait, 0.05) if self._source.exhausted else wait)

    def _receives(self) -> bool:
        return any(thread.is_alive() for thread in self._receiving)

    def _deliver(self, deliverer: Deliverer, merged: threading.Event) -> None:
        """A deliverer's thread."""
        while not self._stop.is_set():
            merged.clear()
            if deliverer.step():
                continue
            due = deliverer.next_due()
            wait = _IDLE_SECONDS if due is None else min(_IDLE_SECONDS, max(0.02, due - self._clock.now()))
            merged.wait(wait)

    def _tell_deliverers(self) -> None:
        for event in self._merged:
            event.set()

    def _join(self, threads: list[threading.Thread], deadline: float) -> list[str]:
        """Wait for threads until the deadline; returns the names of those that still run."""
        for thread in threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]

"""From the inbox into the catalog: claim what has settled, fold, read, build, merge."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError as ProtobufDecodeError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from flytelineage.catalog.merge import Merge, Merger
from flytelineage.clock import Clock
from flytelineage.engine.deliveries import Scheduler
from flytelineage.engine.workflow_events import WorkflowEvents
from flytelineage.errors import StorageUnavailableError
from flytelineage.events import Facts, Mark, read_facts
from flytelineage.inbox.database import select_in
from flytelineage.inbox.sql import Claim, DeadLetter, Inbox, event_key, write_dead_letters
from flytelineage.lineage.build import NodeData, build, wanted_schemas, with_schemas
from flytelineage.lineage.fold import Tree, fold
from flytelineage.lineage.reading import ReadData, Reading, dump_data, load_data
from flytelineage.lineage.types import Lineage

log = logging.getLogger(__name__)

_LEASE_SECONDS: Final = 600.0
_EVENTS_TOGETHER: Final = 4_000
"""Events whose executions are merged in one transaction: it should not hold the writer long."""
_RETRY_CAP_SECONDS: Final = 600.0
_MALFORMED: Final = (ValueError, TypeError, KeyError, AttributeError, ProtobufDecodeError)


@dataclass(slots=True)
class DeriverCounts:
    """Since the start."""

    derived: int = 0
    without_lineage: int = 0
    postponed: int = 0
    dead_letters: int = 0


@dataclass(slots=True)
class _Work:
    """One claim on its way."""

    claim: Claim
    tree: Tree
    known: ReadData
    letters: list[tuple[int, DeadLetter]]
    nodes: dict[str, NodeData] = field(default_factory=dict)
    lineage: Lineage | None = None
    defect: Exception | None = None


class Deriver:
    """Derives executions' lineage. Used by one thread."""

    def __init__(
        self,
        inbox: Inbox,
        reading: Reading,
        scheduler: Scheduler,
        options: WorkflowEvents,
        clock: Clock,
        on_merged: Callable[[], None] = lambda: None,
    ) -> None:
        self.counts = DeriverCounts()
        self._inbox = inbox
        self._reading = reading
        self._scheduler = scheduler
        self._options = options
        self._clock = clock
        self._merger = Merger()
        inbox.writer.watch(lambda: None, self._merger.forget)
        self._on_merged = on_merged

    def step(self, *, draining: bool = False, ended: bool = False) -> int:
        """Derive the executions that are due now, one batch.

        Args:
            draining: the queue is being drained: leave what may still get events.
            ended: no message will ever come again: derive whatever has ended.

        Returns:
            How many executions were taken: 0 when nothing is due.
        """
        claims = self._inbox.claim(self._options.batch_size, lease=_LEASE_SECONDS, draining=draining, ended=ended)
        for part in _by_size(claims):
            self._derive(part, ended=ended)
        return len(claims)

    def _derive(self, claims: Sequence[Claim], *, ended: bool) -> None:
        postponed: list[tuple[Claim, float]] = []
        works = []
        for work in self._fold(claims):
            wait = 0.0 if ended else self._not_before(work)
            if wait > self._clock.now():
                postponed.append((work.claim, wait))
            else:
                works.append(work)
        retries = self._read(works)
        if postponed:
            self.counts.postponed += len(postponed)
            self._inbox.postpone(postponed)
        if retries:
            self._inbox.postpone(retries, failed=True)
        again = {claim.id for claim, _ in retries}
        finished = [work for work in works if work.claim.id not in again]
        if finished:
            self._merge(finished)

    def _not_before(self, work: _Work) -> float:
        """When the execution may be derived at the earliest (DESIGN.md 5)."""
        tree, claim = work.tree, work.claim
        if work.defect is not None:
            return 0.0
        # What failed leaves no lineage, whether or not all of its events have come.
        sure = claim.mark == Mark.TERMINAL and not tree.inferred and (tree.complete or not tree.succeeded)
        return 0.0 if sure else claim.last_event_at + self._options.long_settle_seconds

    def _fold(self, claims: Sequence[Claim]) -> Iterator[_Work]:
        events = self._inbox.read_events(claims)
        known = self._known([claim.id for claim in claims])
        for claim in claims:
            letters: list[tuple[int, DeadLetter]] = []
            work = _Work(claim, Tree(), known.get(claim.id, ReadData()), letters)
            try:
                work.tree = fold(_facts(claim, events.pop(claim.id), letters))
            except Exception as error:  # noqa: BLE001  (a defect on one execution must not hold up the others)
                self._defect(work, error)
            yield work

    def _known(self, executions: Sequence[int]) -> dict[int, ReadData]:
        """What was read when some of the executions were derived before."""
        found = {}
        query = "SELECT execution, document, data FROM run WHERE execution IN ({})"
        for execution, document, data in select_in(self._inbox.database.connect(), query, executions):
            found[execution] = ReadData(load_data(data), Lineage.from_json(document))
        return found

    def _read(self, works: Sequence[_Work]) -> list[tuple[Claim, float]]:
        """Read and build what succeeded; returns those to be tried again, with when."""
        succeeded = [work for work in works if work.tree.succeeded]
        patient = [work.claim.attempts + 1 < self._options.read_attempts for work in succeeded]
        retries: list[tuple[Claim, float]] = []
        built: list[tuple[_Work, bool]] = []
        found = self._reading.read_nodes([(work.tree, work.known) for work in succeeded], patient=patient)
        for work, waits, data in zip(succeeded, patient, found, strict=True):
            if isinstance(data, StorageUnavailableError):
                retries.append(self._retry(work.claim, data))
                continue
            work.nodes = data
            self._build(work)
            built.append((work, waits))
        wanted = [(wanted_schemas(work.lineage) if work.lineage is not None else [], work.known) for work, _ in built]
        schemas = self._reading.read_schemas(wanted, patient=[waits for _, waits in built])
        for (work, _), facts in zip(built, schemas, strict=True):
            if isinstance(facts, StorageUnavailableError):
                retries.append(self._retry(work.claim, facts))
            elif work.lineage is not None:
                work.lineage = with_schemas(work.lineage, facts)
        return retries

    def _build(self, work: _Work) -> None:
        try:
            work.lineage = build(work.claim.execution, work.tree, work.nodes)
        except Exception as error:  # noqa: BLE001  (as above)
            self._defect(work, error)

    def _defect(self, work: _Work, error: Exception) -> None:
        log.exception(
            "The lineage of %s could not be derived", work.claim.execution,
            extra={"action": "derive_defect", "execution": str(work.claim.execution)},
        )  # fmt: skip
        work.defect = error

    def _retry(self, claim: Claim, error: StorageUnavailableError) -> tuple[Claim, float]:
        delay = min(_RETRY_CAP_SECONDS, self._options.read_retry_seconds * 2.0 ** min(claim.attempts, 30))
        log.warning(
            "The lineage of %s waits %.0f s for storage: %s", claim.execution, delay, error,
            extra={"action": "storage_unavailable", "execution": str(claim.execution)},
        )  # fmt: skip
        return claim, self._clock.now() + delay

    def _merge(self, works: Sequence[_Work]) -> None:
        try:
            self._inbox.writer.run(lambda connection: self._write(connection, works))
        except DBAPIError:
            raise  # the database's trouble is nobody's defect: what was claimed comes back
        except Exception as error:  # noqa: BLE001  (a boundary: one bad execution must not hold up the others)
            if len(works) > 1:
                for work in works:
                    self._merge([work])
                return
            if works[0].defect is not None:
                raise
            self._defect(works[0], error)
            works[0].lineage = None
            self._merge(works)
            return
        self.counts.dead_letters += sum(len(work.letters) + (work.defect is not None) for work in works)
        for work in works:
            if work.lineage is not None:
                self.counts.derived += 1
                log.info(
                    "Derived %s into %s: %d tasks, %d datasets", work.claim.execution, work.lineage.pipeline,
                    len(work.lineage.tasks), len(work.lineage.datasets),
                    extra={"action": "derived", "execution": str(work.claim.execution)},
                )  # fmt: skip
            else:
                self.counts.without_lineage += 1
                log.debug(
                    "%s is %s and leaves no lineage", work.claim.execution, work.tree.time.phase or "without phase",
                    extra={"action": "without_lineage", "execution": str(work.claim.execution)},
                )  # fmt: skip
        self._on_merged()

    def _write(self, connection: Connection, works: Sequence[_Work]) -> None:
        """One transaction: catalog, deliveries, dead letters, and the claims' end."""
        merges = [Merge(work.claim.id, work.lineage, dump_data(work.nodes)) for work in works if work.defect is None]
        touched = self._merger.merge(connection, merges)
        if touched.runs:
            self._scheduler.schedule(connection, touched)
        now = self._clock.now()
        write_dead_letters(connection, "event", [letter for work in works for letter in work.letters], now)
        defects = [(work.claim, type(work.defect).__name__) for work in works if work.defect is not None]
        write_dead_letters(
            connection,
            "execution",
            [(claim.id, DeadLetter(f"{claim.execution}: defect: {name}", b"", "")) for claim, name in defects],
            now,
        )
        self._inbox.finish(connection, [work.claim for work in works])


def _facts(claim: Claim, events: Iterable[tuple[int, bytes]], letters: list[tuple[int, DeadLetter]]) -> Iterator[Facts]:
    """Read an execution's events one by one; what is malformed beyond its ids becomes a dead letter."""
    for encoding, body in events:
        try:
            facts = read_facts(encoding, body)
        except _MALFORMED as error:
            reason = f"event of {claim.execution} is malformed: {type(error).__name__}"
            letters.append((event_key(body), DeadLetter(reason, body, "")))
        else:
            yield facts


def _by_size(claims: Sequence[Claim]) -> Iterator[list[Claim]]:
    """Groups of claims that are merged together."""
    part: list[Claim] = []
    events = 0
    for claim in claims:
        if part and events + claim.events > _EVENTS_TOGETHER:
            yield part
            part, events = [], 0
        part.append(claim)
        events += claim.events
    if part:
        yield part

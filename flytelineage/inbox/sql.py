"""The inbox: events as received, their executions with what is due, and dead letters.

Statements by hand where they are hot (ingest.md 1). What they rely on: an event is appended once however often it
comes (UNIQUE of execution and hash), and an execution's ``due`` is its schedule, its back-off and its lease in one.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Table, func, select
from sqlalchemy.engine import Connection
from traitlets import Unicode
from traitlets.config import LoggingConfigurable

from flytelineage.clock import Clock, SystemClock
from flytelineage.events import Event, Mark
from flytelineage.inbox.database import Database, Writer, many, select_in
from flytelineage.model import ExecutionId

log = logging.getLogger(__name__)

_CACHE: Final = 20_000
"""Execution ids kept in memory, about 4 MB: beyond, all are forgotten and looked up again as they are needed."""
_MAX_REASON: Final = 500
_MAX_DOUBLINGS: Final = 10


_TOUCH: Final = (
    "UPDATE execution SET events = events + ?, last_event_at = ?, mark = max(mark, ?),"
    " reopened = reopened + (derived_events > 0 AND derived_events = events),"
    " due = CASE WHEN claimed = 1 THEN due ELSE CASE max(mark, ?)"
    "  WHEN 2 THEN ? + min(?, ? * (1 << min(?, reopened + (derived_events > 0 AND derived_events = events))))"
    "  WHEN 1 THEN ? + ? ELSE due END END"
    " WHERE id = ?"
)
"""2 and 1 are events.Mark: an execution that has ended settles, twice as long each time that it reopens; one whose
end-node is done waits the long time for its SUCCEEDED. A lease is left alone: who has it sees that events came."""


class DeadLetter(NamedTuple):
    """A message that will not be tried again by itself.

    Attributes:
        reason: for a person, without payload.
        body: what was received.
        message_id: the queue's id, for finding it in logs.
    """

    reason: str
    body: bytes
    message_id: str


class Batch(NamedTuple):
    """What one receive brought: decoded events and the messages that are none."""

    events: Sequence[Event]
    dead_letters: Sequence[DeadLetter]


class Settle(NamedTuple):
    """When an execution is ready, in seconds since its last event arrived (DESIGN.md 5)."""

    settle: float
    long_settle: float


class Claim(NamedTuple):
    """An execution that a builder has, and nobody else until it is finished or given back.

    Attributes:
        id: the row.
        execution: whose events they are.
        mark: what its events say about its end.
        events: how many there were; more may have come since.
        last_event_at: seconds since the epoch.
        attempts: tries before this one that failed for now.
    """

    id: int
    execution: ExecutionId
    mark: Mark
    events: int
    last_event_at: float
    attempts: int


@dataclass(slots=True)
class InboxCounts:
    """What this process put in since it started."""

    events: int = 0
    duplicates: int = 0
    dead_letters: int = 0

    def add(self, other: InboxCounts) -> None:
        """Add what another counted."""
        self.events += other.events
        self.duplicates += other.duplicates
        self.dead_letters += other.dead_letters


def event_key(body: bytes) -> int:
    """64-bit hash of an event's own bytes, signed as databases want it (DESIGN.md 4)."""
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "big", signed=True)


class Inbox(LoggingConfigurable):
    """The durable store of events, and the database that the catalog shares."""

    url = Unicode(
        "sqlite:///flytelineage.db",
        help="Database of events, catalog and deliveries, as a SQLAlchemy URL: sqlite:///FILE. The file must lie on a "
        "local disk (SQLite's WAL does not work on NFS or EFS), belongs to one process and is created with mode 0600.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        """Nothing is opened yet."""
        super().__init__(**kwargs)
        self.counts = InboxCounts()
        self._uncommitted = InboxCounts()
        self._database: Database | None = None
        self._ids: dict[str, int] = {}
        self._prefix = "/"
        self._settle = Settle(0.0, 0.0)
        self._clock: Clock = SystemClock()

    def open(
        self,
        *,
        readonly: bool = False,
        instance: str = "",
        settle: Settle | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open the database; see :meth:`Database.open <flytelineage.inbox.database.Database.open>` for its errors.

        Args:
            readonly: beside a daemon, for commands.
            instance: which Flyte the events come from; part of every execution's key.
            settle: how long executions wait.
            clock: dates what is written.
        """
        self._database = Database(self.url)
        self._database.open(readonly=readonly)
        self._prefix = f"{instance}/"
        self._settle = settle or self._settle
        self._clock = clock or self._clock
        if not readonly:
            self.writer.watch(self._committed, self._rolled_back)
            # The file has one process: whatever an earlier one had claimed, it has no more.
            now = self._clock.now()
            self.writer.run(
                lambda c: c.exec_driver_sql("UPDATE execution SET claimed = 0, due = ? WHERE claimed = 1", (now,))
            )

    @property
    def database(self) -> Database:
        """The open database."""
        if self._database is None:
            msg = "the inbox is not open"
            raise RuntimeError(msg)
        return self._database

    @property
    def writer(self) -> Writer:
        """The one thread that writes."""
        writer = self.database.writer
        if writer is None:
            msg = "the inbox is open for reading only"
            raise RuntimeError(msg)
        return writer

    def close(self) -> None:
        """Write what was handed over and close. Idempotent."""
        if self._database is not None:
            self._database.close()
            self._database = None
            self._ids.clear()

    # -- appending ---------------------------------------------------------------------------------------------------

    def append(self, batch: Batch) -> Future[Any]:
        """Store a batch in the next commit, together with those of other receivers.

        Blocks while the writer is behind. Idempotent.

        Returns:
            Ends after the commit: only then may the messages be deleted (invariant 1).
        """
        return self.writer.submit_grouped(self._append_all, batch)

    def _append_all(self, connection: Connection, batches: list[Batch]) -> None:
        now = self._clock.now()
        self._append_events(connection, [event for batch in batches for event in batch.events], now)
        letters = [letter for batch in batches for letter in batch.dead_letters]
        if letters:
            write_dead_letters(connection, "message", [(event_key(x.body), x) for x in letters], now)
            self._uncommitted.dead_letters += len(letters)

    def _committed(self) -> None:
        self.counts.add(self._uncommitted)
        self._uncommitted = InboxCounts()

    def _rolled_back(self) -> None:
        self._uncommitted = InboxCounts()
        self._ids.clear()  # there may be ids among them of rows that were taken back

    def _append_events(self, connection: Connection, events: Sequence[Event], now: float) -> None:
        if not events:
            return
        self._load_ids(connection, {event.execution for event in events}, now)
        ids = self._ids
        rows = [(ids[execution], event_key(body), int(encoding), body) for execution, encoding, _, body in events]
        marks_of: dict[int, int] = {}
        for event, row in zip(events, rows, strict=True):
            if event.mark:
                marks_of[row[0]] = max(marks_of.get(row[0], 0), int(event.mark))
        last = connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM event").scalar_one()
        added = many(
            connection,
            "INSERT INTO event (execution, k, encoding, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            rows,
        )
        new: Mapping[int, int]
        if added == len(rows):
            new = Counter(row[0] for row in rows)
        else:
            query = "SELECT execution, count(*) FROM event WHERE id > ? GROUP BY execution"
            new = {row[0]: row[1] for row in connection.exec_driver_sql(query, (last,))}
        self._uncommitted.events += added
        self._uncommitted.duplicates += len(rows) - added
        self._touch(connection, new, marks_of, now)

    def _touch(self, connection: Connection, new: Mapping[int, int], marks_of: Mapping[int, int], now: float) -> None:
        """Date the executions that got new events, and settle them anew. Only new events count (ingest.md 6.1)."""
        settle, long_settle = self._settle
        rows = []
        for row_id, count in sorted(new.items()):
            mark = marks_of.get(row_id, 0)
            rows.append(
                (
                    count,
                    now,
                    mark,
                    mark,
                    now,
                    max(settle, long_settle),
                    settle,
                    _MAX_DOUBLINGS,
                    now,
                    long_settle,
                    row_id,
                )
            )
        many(connection, _TOUCH, rows)

    def _load_ids(self, connection: Connection, executions: set[str], now: float) -> None:
        """See to it that the rows of some executions are there and known."""
        if len(self._ids) > _CACHE:
            self._ids.clear()
        missing = {self._prefix + execution: execution for execution in executions if execution not in self._ids}
        if missing:
            keys = sorted(missing)
            many(
                connection,
                "INSERT INTO execution (key, mark, events, last_event_at, derived_events, reopened, attempts, claimed)"
                " VALUES (?, 0, 0, ?, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
                [(key, now) for key in keys],
            )
            for key, row_id in select_in(connection, "SELECT key, id FROM execution WHERE key IN ({})", keys):
                self._ids[missing[key]] = row_id

    # -- deriving ----------------------------------------------------------------------------------------------------

    def claim(self, limit: int, *, lease: float, draining: bool = False, ended: bool = False) -> list[Claim]:
        """Take executions that are due, the longest waiting first.

        Args:
            limit: the most to take.
            lease: seconds after which a claim that nobody finished is due again.
            draining: the queue is being drained: take only what has been quiet for the long settle time.
            ended: no message will ever come again: take whatever has ended, now.
        """
        now = self._clock.now()
        quiet_since = now - self._settle.long_settle if draining else now
        query = (
            "SELECT id, key, mark, events, last_event_at, attempts FROM execution"
            " WHERE due IS NOT NULL AND (due <= ? OR (? AND claimed = 0 AND attempts = 0)) AND last_event_at <= ?"
            " ORDER BY due, id LIMIT ?"
        )
        rows = self.database.connect().exec_driver_sql(query, (now, ended, quiet_since, limit)).all()
        if not rows:
            return []
        claims = [
            Claim(row_id, ExecutionId.from_key(key), Mark(mark), events, last, attempts)
            for row_id, key, mark, events, last, attempts in rows
        ]
        leased = [(now + lease, claim.id) for claim in claims]
        self.writer.run(lambda c: many(c, "UPDATE execution SET claimed = 1, due = ? WHERE id = ?", leased))
        return claims

    def is_idle(self) -> bool:
        """Whether no execution has anything due, now or later."""
        query = "SELECT 1 FROM execution WHERE due IS NOT NULL LIMIT 1"
        return self.database.connect().exec_driver_sql(query).first() is None

    def next_due(self) -> float | None:
        """When the next execution is due, in seconds since the epoch; None: none is."""
        query = "SELECT min(due) FROM execution WHERE due IS NOT NULL AND claimed = 0"
        value: float | None = self.database.connect().exec_driver_sql(query).scalar()
        return value

    def read_events(self, claims: Iterable[Claim]) -> dict[int, list[tuple[int, bytes]]]:
        """The events of some executions: by execution row, (encoding, body) in no order."""
        events: dict[int, list[tuple[int, bytes]]] = {claim.id: [] for claim in claims}
        # By row: the index has an execution's events in the order of their hashes, all over the file.
        query = "SELECT execution, encoding, body FROM event WHERE id IN (SELECT id FROM event WHERE execution IN ({}))"
        for row_id, encoding, body in select_in(self.database.connect(), query, list(events)):
            events[row_id].append((encoding, body))
        return events

    def postpone(self, claims: Sequence[tuple[Claim, float]], *, failed: bool = False) -> None:
        """Give claims back, each with the time (seconds since the epoch) at which it is due again.

        Args:
            claims: and their times; a new event may make one due earlier.
            failed: count the try.
        """
        again = self._clock.now() + self._settle.settle
        rows = [(int(failed), claim.events, due, min(due, again), claim.id) for claim, due in claims]
        query = (
            "UPDATE execution SET claimed = 0, attempts = attempts + ?, due = CASE WHEN events = ? THEN ? ELSE ? END"
            " WHERE id = ?"
        )
        self.writer.run(lambda c: many(c, query, rows))

    def finish(self, connection: Connection, claims: Iterable[Claim]) -> None:
        """End claims, in the transaction that wrote what came of them.

        Executions that got events since they were claimed settle anew.
        """
        again = self._clock.now() + self._settle.settle
        many(
            connection,
            "UPDATE execution SET claimed = 0, attempts = 0, derived_events = ?,"
            " reopened = reopened + (events != ?), due = CASE WHEN events = ? THEN NULL ELSE ? END WHERE id = ?",
            [(claim.events, claim.events, claim.events, again, claim.id) for claim in claims],
        )

    def counts_of(self, tables: Sequence[Table]) -> dict[str, int]:
        """Rows in some of our tables, by name."""
        connection = self.database.connect()
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
        }


def write_dead_letters(
    connection: Connection, kind: str, letters: Sequence[tuple[int, DeadLetter]], now: float
) -> None:
    """Keep dead letters, each once with the times it came.

    Args:
        connection: in a transaction.
        kind: ``message`` or ``execution``.
        letters: with the key that makes each unique within its kind.
        now: seconds since the epoch.
    """
    many(
        connection,
        "INSERT INTO dead_letter (kind, k, reason, body, message_id, first_at, last_at, times)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 1)"
        " ON CONFLICT (kind, k) DO UPDATE SET reason = excluded.reason, last_at = excluded.last_at, times = times + 1",
        [(kind, key, x.reason[:_MAX_REASON], x.body, x.message_id, now, now) for key, x in letters],
    )

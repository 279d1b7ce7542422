"""What every target still has to be told: one row per target and entity, holding the wanted revision.

A row is written in the transaction that changes its entity, so that nothing is forgotten; many changes of an entity
that wait for a slow target are one row (ingest.md 6.2). What is sent is the entity's state at the time of sending, with
the revision wanted then. A state that equals the one last delivered is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy.engine import Connection

from flytelineage.catalog.merge import NO_PIPELINE, Touched
from flytelineage.catalog.reader import CatalogReader, DatasetId, TaskId
from flytelineage.catalog.state import made_key, split_key
from flytelineage.clock import Clock
from flytelineage.documents import to_document
from flytelineage.errors import PermanentError, RetryableError
from flytelineage.inbox.database import many, select_in
from flytelineage.inbox.sql import Inbox
from flytelineage.model import Entity, Kind
from flytelineage.targets.base import Change, Target

log = logging.getLogger(__name__)

_REMOVED: Final = "removed"
_UNSURE: Final = "unsure"
"""In place of a digest: a delivery failed, and may have arrived all the same."""
_MAX_ERROR: Final = 500


class Lane(NamedTuple):
    """An entity that deliveries go to: its kind and key, and how the catalog finds it."""

    kind: Kind
    key: str
    pipeline: int
    ref: str


def next_revision(connection: Connection) -> int:
    """Count the catalog's changes; every entity that changes in a transaction gets its number as revision."""
    connection.exec_driver_sql(
        "INSERT INTO counter (name, value) VALUES ('revision', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
    )
    return int(connection.exec_driver_sql("SELECT value FROM counter WHERE name = 'revision'").scalar_one())


class Scheduler:
    """Writes the deliveries of every configured target; runs in the writer's thread, in the merge's transaction."""

    def __init__(self, targets: Sequence[str], clock: Clock) -> None:
        self._targets = tuple(targets)
        self._clock = clock

    def schedule(self, connection: Connection, touched: Touched) -> None:
        """Note what a merge may have changed."""
        revision = next_revision(connection)
        if not self._targets:
            return
        reader = CatalogReader(connection)
        renumbered = reader.renumbered(touched.new_tasks)
        self._want(connection, _lanes(reader, touched, renumbered), revision)
        # Names have gone or moved: whoever was told of one is told again, or that it is no more.
        self._want_known(connection, touched.removed | renumbered, revision)
        many(
            connection,
            "UPDATE target SET revision = ? WHERE name = ?",
            [(revision, target) for target in self._targets],
        )

    def seed(self, connection: Connection) -> None:
        """Give a target that is new, or was away while others were told, a delivery of everything (invariant 3)."""
        revision = connection.exec_driver_sql("SELECT value FROM counter WHERE name = 'revision'").scalar() or 0
        known: dict[str, int] = dict(connection.exec_driver_sql("SELECT name, revision FROM target").all())
        behind = [target for target in self._targets if known.get(target) != revision]
        if behind and revision:
            lanes = _all_lanes(CatalogReader(connection))
            Scheduler(behind, self._clock)._want(connection, lanes, revision)
            many(
                connection,
                "UPDATE delivery SET wanted = ?, due = ? WHERE target = ?",
                [(revision, self._clock.now(), target) for target in behind],
            )
        many(
            connection,
            "INSERT INTO target (name, revision) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET revision = excluded.revision",
            [(target, revision) for target in self._targets],
        )

    def _want(self, connection: Connection, lanes: Iterable[Lane], revision: int) -> None:
        now = self._clock.now()
        # A new revision makes a lane due now, unless it waits out the back-off of a failure: a target that is down is
        # not asked more often because more happens.
        many(
            connection,
            "INSERT INTO delivery (target, kind, key, pipeline, ref, wanted, done, digest, attempts, due, last_error)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, '', 0, ?, '') ON CONFLICT (target, kind, key) DO UPDATE SET"
            " wanted = excluded.wanted, pipeline = excluded.pipeline, ref = excluded.ref, dead_at = NULL,"
            " attempts = CASE WHEN dead_at IS NULL THEN attempts ELSE 0 END,"
            " due = CASE WHEN attempts > 0 AND due IS NOT NULL THEN due ELSE excluded.due END",
            [
                (target, lane.kind.value, lane.key, lane.pipeline, lane.ref, revision, now)
                for target in self._targets
                for lane in sorted(set(lanes))
            ],
        )

    def _want_known(self, connection: Connection, pipelines: Iterable[int], revision: int) -> None:
        now = self._clock.now()
        many(
            connection,
            "UPDATE delivery SET wanted = ?, dead_at = NULL, due = coalesce(due, ?) WHERE target = ? AND pipeline = ?",
            [(revision, now, target, pipeline) for target in self._targets for pipeline in sorted(pipelines)],
        )


def _lanes(reader: CatalogReader, touched: Touched, renumbered: Iterable[int]) -> set[Lane]:
    lanes: set[Lane] = set()
    rows = set(touched.tasks)
    pipelines = set(touched.pipelines)
    for pipeline in (*renumbered, *touched.removed):
        # A node of the same task has come before these, or gone: their numbers moved, and all names that hold one.
        pipelines.add(pipeline)
        for task in reader.task_ids(pipeline):
            keys = [made_key(row, d.variable) for d in reader.dataset_ids(task) for row in reader.rows_of(task)]
            rows |= reader.users_of(keys)
            rows.update(reader.rows_of(task))
        for execution in (*reader.run_ids([pipeline]), *reader.runs_that_read(pipeline)):
            lanes.add(_run_lane(reader, execution))
    for pipeline in pipelines:
        lane = _pipeline_lane(reader, pipeline)
        if lane is not None:
            lanes.add(lane)
    for task_id in reader.tasks_named_like(rows):
        lanes.add(_task_lane(reader, task_id))
        lanes.update(_dataset_lane(reader, dataset) for dataset in reader.dataset_ids(task_id))
        # What a task reads is what the datasets that it writes are made from.
        lanes.update(_written_lanes(reader, reader.outputs_of(task_id)))
    lanes.update(_place_lanes(reader, touched.places))
    lanes.update(_written_lanes(reader, touched.datasets))
    lanes.update(_run_lane(reader, execution) for execution in touched.runs)
    return lanes


def _written_lanes(reader: CatalogReader, keys: Iterable[str]) -> Iterable[Lane]:
    """The lanes of the datasets behind some edges."""
    for key in keys:
        row_id, variable = split_key(key)
        if variable is None:
            yield from _place_lanes(reader, [row_id])
        else:
            owner = reader.task_of_row(row_id)
            if owner is not None:
                yield _dataset_lane(reader, DatasetId(owner, variable))


def _all_lanes(reader: CatalogReader) -> set[Lane]:
    lanes: set[Lane] = set()
    for pipeline in reader.pipeline_ids():
        lane = _pipeline_lane(reader, pipeline)
        if lane is not None:
            lanes.add(lane)
        for task in reader.task_ids(pipeline):
            lanes.add(_task_lane(reader, task))
            lanes.update(_dataset_lane(reader, dataset) for dataset in reader.dataset_ids(task))
    lanes.update(_place_lanes(reader, reader.place_ids()))
    lanes.update(_run_lane(reader, execution) for execution in reader.run_ids())
    return lanes


def _pipeline_lane(reader: CatalogReader, pipeline: int) -> Lane | None:
    key = reader.pipeline_key(pipeline)
    return None if key is None else Lane(Kind.PIPELINE, key, pipeline, json.dumps([pipeline]))


def _task_lane(reader: CatalogReader, task: TaskId) -> Lane:
    key = f"{reader.pipeline_key(task.pipeline)}/{reader.task_name(task)}"
    return Lane(Kind.TASK, key, task.pipeline, json.dumps(task))


def _dataset_lane(reader: CatalogReader, dataset: DatasetId) -> Lane:
    task = dataset.task
    key = f"{reader.pipeline_key(task.pipeline)}/{reader.task_name(task)}/{dataset.variable}"
    return Lane(Kind.DATASET, key, task.pipeline, json.dumps([*task, dataset.variable]))


def _place_lanes(reader: CatalogReader, places: Iterable[int]) -> Iterable[Lane]:
    for place in places:
        identity = reader.place_identity(place)
        if identity is not None:
            yield Lane(Kind.DATASET, "{}://{}".format(*identity), NO_PIPELINE, json.dumps(identity))


def _run_lane(reader: CatalogReader, execution: int) -> Lane:
    key, pipeline = reader.execution_key(execution)
    return Lane(Kind.RUN, key, pipeline, json.dumps([execution]))


def _find(reader: CatalogReader, kind: str, ref: str) -> Entity | None:
    """The entity of a lane, now; None: there is none any more."""
    value = json.loads(ref)
    if kind == Kind.PIPELINE:
        return reader.pipeline(value[0])
    if kind == Kind.TASK:
        return reader.task(TaskId(*value))
    if kind == Kind.RUN:
        return reader.run(value[0])
    if len(value) == 2:
        place = reader.place_id(*value)
        return None if place is None else reader.place(place)
    return reader.dataset(DatasetId(TaskId(*value[:3]), value[3]))


@dataclass(frozen=True, slots=True)
class _Due:
    kind: str
    key: str
    ref: str
    wanted: int
    done: int
    digest: str
    attempts: int


@dataclass(slots=True)
class DeliveryCounts:
    """Of one target, since the start."""

    sent: int = 0
    unchanged: int = 0
    failed: int = 0
    dead: int = 0


class Deliverer:
    """Sends one target's due deliveries. Used by one thread."""

    def __init__(
        self, target: Target, inbox: Inbox, clock: Clock, jitter: Callable[[float, float], float] = random.uniform
    ) -> None:
        self.target = target
        self.counts = DeliveryCounts()
        self._inbox = inbox
        self._clock = clock
        self._jitter = jitter
        self._failing = False

    def step(self) -> int:
        """Deliver at most one batch.

        Returns:
            How many deliveries were due: 0 when there is nothing to do now.
        """
        with self._inbox.database.snapshot() as connection:
            due = self._due(connection)
            if not due:
                return 0
            reader = CatalogReader(connection, resolved_only=True)
            found = [_render(reader, item) for item in due]
        errors: dict[int, Exception | None] = {}
        news = []
        for position, (item, (entity, digest)) in enumerate(zip(due, found, strict=True)):
            if isinstance(entity, Exception):
                errors[position] = entity
            # Someone who never heard of an entity need not hear that it is gone.
            elif digest != (item.digest or (_REMOVED if entity is None else "")):
                news.append(position)
        changes = [Change(Kind(due[p].kind), due[p].key, due[p].wanted, found[p][0]) for p in news]  # type: ignore[arg-type]
        self._begin([due[position] for position in news])
        errors.update(zip(news, self._send(changes), strict=True))
        self.counts.unchanged += len(due) - len(errors)
        self._record(due, [digest for _, digest in found], errors)
        return len(due)

    def _begin(self, items: Sequence[_Due]) -> None:
        """Note that the target may show something else from now on, whether or not we live to hear its answer."""
        rows = [(_UNSURE, self.target.name, item.kind, item.key) for item in items if item.digest != _UNSURE]
        if rows:
            query = "UPDATE delivery SET digest = ? WHERE target = ? AND kind = ? AND key = ?"
            self._inbox.writer.run(lambda connection: many(connection, query, rows))

    def _send(self, changes: Sequence[Change]) -> Sequence[Exception | None]:
        """One outcome a change, whatever the target does: a defect of it is its own deliveries' failure."""
        if not changes:
            return []
        try:
            outcomes = self.target.send_all(changes)
            if len(outcomes) != len(changes):
                msg = f"target {self.target.name} gave {len(outcomes)} outcomes for {len(changes)} changes"
                raise RuntimeError(msg)
        except Exception as error:  # noqa: BLE001  (a boundary: the outcome is recorded)
            return [error] * len(changes)
        return outcomes

    def next_due(self) -> float | None:
        """When the next delivery is due, in seconds since the epoch; None: none is."""
        query = "SELECT min(due) FROM delivery WHERE target = ? AND due IS NOT NULL"
        value: float | None = self._inbox.database.connect().exec_driver_sql(query, (self.target.name,)).scalar()
        return value

    def _due(self, connection: Connection) -> list[_Due]:
        """The deliveries to make now: all of a kind before those of the kinds that refer to it."""
        found: list[_Due] = []
        now, room = self._clock.now(), self.target.batch_size
        for kind in Kind:
            rows = connection.exec_driver_sql(
                "SELECT kind, key, ref, wanted, done, digest, attempts FROM delivery"
                " WHERE target = ? AND kind = ? AND due IS NOT NULL AND due <= ? ORDER BY due, key LIMIT ?",
                (self.target.name, kind.value, now, room - len(found)),
            )
            found.extend(_Due(*row) for row in rows)
            if len(found) >= room:
                break
        return found

    def _record(self, due: Sequence[_Due], digests: Sequence[str], errors: dict[int, Exception | None]) -> None:
        now = self._clock.now()
        finished: list[tuple[Any, ...]] = []
        failed: list[tuple[Any, ...]] = []
        for position, item in enumerate(due):
            error = errors.get(position)
            lane = (self.target.name, item.kind, item.key)
            if error is None:
                self.counts.sent += position in errors
                finished.append((item.wanted, digests[position], item.wanted, now, *lane))
            else:
                failed.append((*self._failure(item, error, now), *lane))
        if self._failing and not failed:
            log.info("Target %s takes deliveries again", self.target.name, extra={"action": "target_recovered"})
        self._failing = bool(failed)
        self._inbox.writer.run(lambda connection: _write_outcomes(connection, finished, failed))

    def _failure(self, item: _Due, error: Exception, now: float) -> tuple[Any, ...]:
        """Columns of a delivery that failed: when to try again, or that nobody will."""
        attempts = item.attempts + 1
        target = self.target
        text = f"{type(error).__name__}: {error}"[:_MAX_ERROR]
        self.counts.failed += 1
        given_up = isinstance(error, PermanentError) or (target.max_attempts and attempts >= target.max_attempts)
        if given_up:
            self.counts.dead += 1
            log.error(
                "Target %s: gave up on %s %s after %d tries: %s", target.name, item.kind, item.key, attempts, text,
                extra={"action": "delivery_dead", "target": target.name, "key": item.key},
            )  # fmt: skip
            return attempts, None, text, now, item.wanted
        if not self._failing:
            self._failing = True
            log.warning(
                "Target %s: %s %s failed, and is tried again: %s", target.name, item.kind, item.key, text,
                exc_info=error if not isinstance(error, RetryableError) else None,
                extra={"action": "delivery_failed", "target": target.name, "key": item.key},
            )  # fmt: skip
        ceiling = min(target.retry_cap_seconds, target.retry_base_seconds * 2.0 ** min(item.attempts, 30))
        delay = self._jitter(ceiling / 2, ceiling)
        if isinstance(error, RetryableError) and error.retry_after is not None:
            delay = max(delay, min(error.retry_after, target.retry_cap_seconds))
        return attempts, now + delay, text, None, item.wanted


def _write_outcomes(
    connection: Connection, finished: Sequence[tuple[Any, ...]], failed: Sequence[tuple[Any, ...]]
) -> None:
    """A lane that was wanted anew meanwhile stays due."""
    many(
        connection,
        "UPDATE delivery SET done = ?, digest = ?, attempts = 0, last_error = '', dead_at = NULL,"
        " due = CASE WHEN wanted = ? THEN NULL ELSE ? END WHERE target = ? AND kind = ? AND key = ?",
        finished,
    )
    many(
        connection,
        "UPDATE delivery SET digest = ?, attempts = ?, last_error = ?, dead_at = CASE WHEN wanted = ? THEN ? END,"
        " due = CASE WHEN wanted = ? THEN ? ELSE coalesce(?, due) END WHERE target = ? AND kind = ? AND key = ?",
        [(_UNSURE, a, text, wanted, dead, wanted, due, due, *lane) for a, due, text, dead, wanted, *lane in failed],
    )


def _render(reader: CatalogReader, item: _Due) -> tuple[Entity | Exception | None, str]:
    """An entity and its digest; the error when it cannot be read, which is this delivery's and no other's."""
    try:
        entity = _find(reader, item.kind, item.ref)
        return entity, _digest(entity)
    except Exception as error:  # noqa: BLE001  (a boundary: the outcome is recorded)
        return error, _UNSURE


def _digest(entity: Entity | None) -> str:
    if entity is None:
        return _REMOVED
    data = orjson.dumps(to_document(entity), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def counts_of(inbox: Inbox, targets: Sequence[str]) -> tuple[int, int]:
    """How many deliveries of some targets wait, and how many of those have failed at least once."""
    query = "SELECT count(*), coalesce(sum(attempts > 0), 0) FROM delivery WHERE due IS NOT NULL AND target IN ({})"
    rows = list(select_in(inbox.database.connect(), query, targets))
    return sum(row[0] for row in rows), sum(row[1] for row in rows)

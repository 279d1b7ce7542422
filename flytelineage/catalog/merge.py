"""Merging lineage into the catalog.

One run's way: its document is stored, the states of the tasks and places that it touched are joined with what it says,
its locations are remembered so that other executions' URIs resolve to datasets, and what changed is handed to the
deliveries. Everything is a join (:mod:`flytelineage.catalog.state`), so a merge that is repeated changes nothing.

Two things are not joins, and are handled by joining anew from the remembered runs (:meth:`Merger._rejoin`): a run
that is derived again and no longer says what it said, and a URI that resolved to a stand-in before its writer was
known. Runs that are affected by a new writer are found through the ``reference`` table.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from flytelineage.catalog.locations import locations_of, uri_hash, uri_prefixes
from flytelineage.catalog.state import (
    DatasetState,
    PipelineState,
    PlaceState,
    RunOrder,
    TaskState,
    join_edge,
    latest,
    made_key,
    place_key,
    run_order,
)
from flytelineage.inbox.database import many, select_in
from flytelineage.lineage.types import Foreign, Lineage, Made, Placed, Ref, TaskKey
from flytelineage.model import NamingRule

_CACHED_TASKS: Final = 20_000
"""Task states kept in memory, of those used last: about 40 MB at the very most."""
NO_PIPELINE: Final = 0
"""Stands for the pipeline of what belongs to none; no row has this id."""
READ, WRITTEN = 0, 1
"""Directions of the ``edge`` table."""


class Merge(NamedTuple):
    """One execution's lineage on its way into the catalog.

    Attributes:
        execution: its row.
        lineage: None: it says nothing (any more).
        data: what was read for it, as :func:`~flytelineage.lineage.reading.dump_data` made it.
    """

    execution: int
    lineage: Lineage | None
    data: str = "{}"


@dataclass(slots=True)
class Touched:
    """What a merge may have changed, by row id: the deliveries are told."""

    pipelines: set[int] = field(default_factory=set)
    tasks: set[int] = field(default_factory=set)
    places: set[int] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    """Keys of datasets that a task wrote before the merge, and may write no more."""
    runs: set[int] = field(default_factory=set)
    new_tasks: set[int] = field(default_factory=set)
    """Tasks that were not there before: they may shift the numbers of others."""
    removed: set[int] = field(default_factory=set)
    """Pipelines of which something has gone; :data:`NO_PIPELINE` for a place."""


K = TypeVar("K")
V = TypeVar("V")


class _Lru(Generic[K, V]):
    """States used last. One thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value

    def drop(self, key: K) -> None:
        self._items.pop(key, None)

    def clear(self) -> None:
        self._items.clear()

    def trim(self) -> None:
        while len(self._items) > self._size:
            self._items.popitem(last=False)


PipelineKey = tuple[str, str, str]


class _Said(NamedTuple):
    """What one execution says, with what a merge asks of it again and again."""

    execution: int
    lineage: Lineage
    order: RunOrder
    pipeline: PipelineKey
    places: frozenset[Placed]
    foreign: frozenset[Foreign]

    @classmethod
    def of(cls, execution: int, lineage: Lineage) -> _Said:
        refs = [ref for task in lineage.tasks for run in task.runs for ref in run.refs if not isinstance(ref, Made)]
        places = {ref for ref in refs if isinstance(ref, Placed)}
        places.update(dataset.ref for dataset in lineage.datasets if isinstance(dataset.ref, Placed))
        return cls(
            execution,
            lineage,
            run_order(lineage.started_at, lineage.execution),
            (lineage.execution.instance, lineage.execution.org, lineage.pipeline),
            frozenset(places),
            frozenset(ref for ref in refs if isinstance(ref, Foreign)),
        )


TaskRow = tuple[int, TaskKey]


class Merger:
    """Merges, as the only one who writes the catalog's tables; its memory is only a cache of them.

    Not thread-safe: every call runs in the writer's thread, in a transaction.
    """

    def __init__(self) -> None:
        self._pipelines: _Lru[PipelineKey, PipelineState] = _Lru(2_000)
        self._tasks: _Lru[TaskRow, TaskState] = _Lru(_CACHED_TASKS)
        self._places: _Lru[Placed, PlaceState] = _Lru(10_000)

    def merge(self, connection: Connection, merges: Sequence[Merge]) -> Touched:
        """Merge some executions' lineage.

        Args:
            connection: in a transaction.
            merges: each execution at most once.

        Returns:
            What may have changed.
        """
        touched = _Session(connection, self._pipelines, self._tasks, self._places).merge(merges)
        for cache in (self._pipelines, self._tasks, self._places):
            cache.trim()
        return touched

    def forget(self) -> None:
        """Drop the caches: a transaction was rolled back, perhaps with a merge in it. Must be called then."""
        for cache in (self._pipelines, self._tasks, self._places):
            cache.clear()


class _Session:
    """One call of :meth:`Merger.merge`."""

    def __init__(
        self,
        connection: Connection,
        pipelines: _Lru[PipelineKey, PipelineState],
        tasks: _Lru[TaskRow, TaskState],
        places: _Lru[Placed, PlaceState],
    ) -> None:
        self._connection = connection
        self._pipelines = pipelines
        self._tasks = tasks
        self._places = places
        self._touched = Touched()
        self._dirty_pipelines: dict[PipelineKey, PipelineState] = {}
        self._dirty_tasks: dict[TaskRow, TaskState] = {}
        self._dirty_places: dict[Placed, PlaceState] = {}
        self._edges: list[tuple[str, int, int]] = []
        self._resolved: dict[str, tuple[int, str] | None] = {}

    def merge(self, merges: Sequence[Merge]) -> Touched:
        previous = self._load_runs([m.execution for m in merges])
        changed = [m for m in merges if m.lineage != (p.lineage if (p := previous.get(m.execution)) else None)]
        retracting = [
            previous[m.execution]
            for m in changed
            if m.execution in previous and not covers(m.lineage, previous[m.execution].lineage)
        ]
        fresh = [_Said.of(m.execution, m.lineage) for m in changed if m.lineage is not None]
        self._store_runs(changed, fresh)
        self._update_data([m for m in merges if m.lineage is not None and m.execution in previous])
        known, moved = self._remember_locations(changed, fresh, previous)
        # Who read a URI before its writer was known, or by another name of it, reads another dataset now.
        readers = self._load_runs(sorted((known | moved) - {m.execution for m in changed}))
        self._join_all([*fresh, *readers.values()])
        stale = [said for said in readers.values() if said.execution in moved or _has_fallback(said)]
        if retracting or stale:
            self._rejoin([*retracting, *stale])
        self._touched.runs.update(m.execution for m in changed)
        self._touched.runs.update(readers)
        self._flush()
        return self._touched

    # -- runs --------------------------------------------------------------------------------------------------------

    def _load_runs(self, executions: Sequence[int]) -> dict[int, _Said]:
        query = "SELECT execution, document FROM run WHERE execution IN ({})"
        rows = select_in(self._connection, query, executions)
        return {execution: _Said.of(execution, Lineage.from_json(document)) for execution, document in rows}

    def _store_runs(self, changed: Sequence[Merge], fresh: Sequence[_Said]) -> None:
        gone = [(m.execution,) for m in changed if m.lineage is None]
        many(self._connection, "DELETE FROM run WHERE execution = ?", gone)
        self._load_pipelines({said.pipeline for said in fresh})
        data = {m.execution: m.data for m in changed}
        many(
            self._connection,
            "INSERT INTO run (execution, pipeline, document, data) VALUES (?, ?, ?, ?) ON CONFLICT (execution)"
            " DO UPDATE SET pipeline = excluded.pipeline, document = excluded.document, data = excluded.data",
            [
                (said.execution, self._pipeline(said.pipeline).id, said.lineage.to_json(), data[said.execution])
                for said in fresh
            ],
        )

    def _update_data(self, merges: Sequence[Merge]) -> None:
        """Keep what was read again, also where it says nothing new."""
        many(self._connection, "UPDATE run SET data = ? WHERE execution = ?", [(m.data, m.execution) for m in merges])

    # -- loading -----------------------------------------------------------------------------------------------------

    def _load_pipelines(self, keys: Iterable[PipelineKey]) -> None:
        missing = sorted(key for key in keys if self._pipelines.get(key) is None)
        many(
            self._connection,
            "INSERT INTO pipeline (instance, org, name, state) VALUES (?, ?, ?, '') ON CONFLICT DO NOTHING",
            missing,
        )
        for key in missing:
            row_id, text = self._connection.exec_driver_sql(
                "SELECT id, state FROM pipeline WHERE instance = ? AND org = ? AND name = ?", key
            ).one()
            self._pipelines.put(key, PipelineState.load(row_id, text) if text else PipelineState(row_id))

    def _pipeline(self, key: PipelineKey) -> PipelineState:
        state = self._dirty_pipelines.get(key) or self._pipelines.get(key)
        if state is None:
            self._load_pipelines([key])
            state = self._pipelines.get(key)
            assert state is not None  # noqa: S101  (just loaded)
        return state

    def _load_tasks(self, wanted: Iterable[list[TaskRow]]) -> None:
        missing = sorted({row for rows in wanted for row in rows if self._tasks.get(row) is None})
        found = self._select_tasks(missing)
        absent = [row for row in missing if row not in found]
        if absent:
            many(
                self._connection,
                "INSERT INTO task (pipeline, name, version, path, state) VALUES (?, ?, ?, ?, '')",
                [(pipeline, *key) for pipeline, key in absent],
            )
            found |= self._select_tasks(absent)
            self._touched.new_tasks.update(found[row].id for row in absent)
        for row, state in found.items():
            self._tasks.put(row, state)

    def _select_tasks(self, rows: Sequence[TaskRow]) -> dict[TaskRow, TaskState]:
        found = {}
        query = (
            "SELECT id, pipeline, name, version, path, state FROM task WHERE (pipeline, name, version, path) IN ({})"
        )
        keys = [(pipeline, *key) for pipeline, key in rows]
        for row_id, pipeline, name, version, path, text in select_in(self._connection, query, keys):
            state = TaskState.load(row_id, text) if text else TaskState(row_id)
            found[pipeline, TaskKey(name, version, path)] = state
        return found

    def _task(self, pipeline: int, key: TaskKey) -> TaskState:
        state = self._tasks.get((pipeline, key))
        if state is None:
            self._load_tasks([[(pipeline, key)]])
            state = self._tasks.get((pipeline, key))
            assert state is not None  # noqa: S101  (just loaded)
        return state

    def _load_places(self, wanted: Iterable[Placed]) -> None:
        missing = sorted({place for place in wanted if self._places.get(place) is None})
        many(
            self._connection,
            "INSERT INTO place (platform, name, state) VALUES (?, ?, '') ON CONFLICT DO NOTHING",
            missing,
        )
        query = "SELECT id, platform, name, state FROM place WHERE (platform, name) IN ({})"
        for row_id, platform, name, text in select_in(self._connection, query, [tuple(place) for place in missing]):
            self._places.put(Placed(platform, name), PlaceState.load(row_id, text) if text else PlaceState(row_id))

    def _place(self, place: Placed) -> PlaceState:
        state = self._places.get(place)
        if state is None:
            self._load_places([place])
            state = self._places.get(place)
            assert state is not None  # noqa: S101  (just loaded)
        return state

    # -- locations: which dataset a run-scoped URI is ----------------------------------------------------------------

    def _remember_locations(
        self, changed: Sequence[Merge], fresh: Sequence[_Said], previous: Mapping[int, _Said]
    ) -> tuple[set[int], set[int]]:
        """Remember what was written where.

        Args:
            changed: what is merged.
            fresh: those of it that say something.
            previous: what they said before, by execution.

        Returns:
            The executions that read what is written here; and those that read what was called otherwise before.
        """
        self._load_tasks(_rows(self._pipeline(said.pipeline).id, said.lineage) for said in fresh)
        before = self._forget_locations([previous[m.execution] for m in changed if m.execution in previous])
        locations: list[tuple[int, int, str, int, str, int]] = []
        references: set[tuple[int, int]] = set()
        for said in fresh:
            pipeline = self._pipeline(said.pipeline).id
            for dataset in said.lineage.datasets:
                if isinstance(dataset.ref, Made):
                    task, variable = self._task(pipeline, dataset.ref.key).id, dataset.ref.variable
                    started = said.lineage.started_at
                    locations.extend((uri_hash(u), said.execution, u, task, variable, started) for u in dataset.uris)
            for ref in said.foreign:
                references.update((uri_hash(prefix), said.execution) for prefix in uri_prefixes(ref.uri))
        many(
            self._connection,
            "INSERT INTO location (hash, execution, uri, task, variable, started_at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            locations,
        )
        many(self._connection, "INSERT INTO reference (hash, execution) VALUES (?, ?)", sorted(references))
        after = {(row[0], row[3], row[4]) for row in locations}
        readers = self._readers_of(row[0] for row in locations)
        renamed = {row[0] for row in before - after}
        if readers:
            # Somebody else may have written the same URI: who of them counts may have changed.
            query = "SELECT hash FROM location WHERE hash IN ({}) GROUP BY hash HAVING count(*) > 1"
            renamed.update(row[0] for row in select_in(self._connection, query, sorted({x[0] for x in locations})))
        return readers, self._readers_of(renamed)

    def _forget_locations(self, runs: Sequence[_Said]) -> set[tuple[int, int, str]]:
        """Forget what executions wrote and read; returns (hash, task, variable) of what they wrote."""
        wrote = [
            (uri_hash(uri), said.execution)
            for said in runs
            for dataset in said.lineage.datasets
            if isinstance(dataset.ref, Made)
            for uri in dataset.uris
        ]
        read = [
            (uri_hash(prefix), said.execution)
            for said in runs
            for ref in said.foreign
            for prefix in uri_prefixes(ref.uri)
        ]
        query = "SELECT hash, task, variable FROM location WHERE (hash, execution) IN ({})"
        before = {(row[0], row[1], row[2]) for row in select_in(self._connection, query, wrote)}
        many(self._connection, "DELETE FROM location WHERE hash = ? AND execution = ?", wrote)
        many(self._connection, "DELETE FROM reference WHERE hash = ? AND execution = ?", read)
        many(self._connection, "DELETE FROM unresolved WHERE execution = ?", [(said.execution,) for said in runs])
        return before

    def _readers_of(self, hashes: Iterable[int]) -> set[int]:
        query = "SELECT DISTINCT execution FROM reference WHERE hash IN ({})"
        return {row[0] for row in select_in(self._connection, query, sorted(set(hashes)))}

    def _resolve_all(self, runs: Iterable[_Said]) -> None:
        """Look up the foreign URIs of some runs, all at once."""
        uris = {ref.uri for said in runs for ref in said.foreign} - self._resolved.keys()
        found = locations_of(self._connection, {prefix for uri in uris for prefix in uri_prefixes(uri)})
        for uri in uris:
            self._resolved[uri] = next((found[prefix] for prefix in uri_prefixes(uri) if prefix in found), None)

    # -- joining -----------------------------------------------------------------------------------------------------

    def _join_all(self, runs: Sequence[_Said]) -> None:
        self._prepare(runs)
        foreign = [(said.execution,) for said in runs if said.foreign]
        many(self._connection, "DELETE FROM unresolved WHERE execution = ?", foreign)
        for said in runs:
            self._join_pipeline(said)
            self._join(said, None)

    def _prepare(self, runs: Sequence[_Said]) -> None:
        """Load everything that the runs touch, a statement a kind."""
        self._load_pipelines({said.pipeline for said in runs})
        self._load_tasks(_rows(self._pipeline(said.pipeline).id, said.lineage) for said in runs)
        self._load_places({place for said in runs for place in said.places})
        self._resolve_all(runs)

    def _join_pipeline(self, said: _Said) -> None:
        state, lineage = self._pipeline(said.pipeline), said.lineage
        state.project, state.domain = lineage.execution.project, lineage.execution.domain
        if not state.rule or lineage.naming_rule.rank > NamingRule(state.rule).rank:
            state.rule = lineage.naming_rule.value
            state.workflow, state.module = lineage.workflow, lineage.module
        if lineage.tags:
            state.tags = latest(state.tags, said.order, list(lineage.tags))
        if lineage.owners:
            state.owners = latest(state.owners, said.order, list(lineage.owners))
        self._dirty_pipelines[said.pipeline] = state
        self._touched.pipelines.add(state.id)

    def _join(self, said: _Said, only: _Only | None) -> None:
        """Join one run into the states that it touches (or into some of them)."""
        pipeline, order = self._pipeline(said.pipeline).id, said.order
        states = {task.key: self._task(pipeline, task.key) for task in said.lineage.tasks}
        for task in said.lineage.tasks:
            state = states[task.key]
            if only is not None and state.id not in only.tasks:
                continue
            state.saw(order, task.flyte_task, task.type)
            for run in task.runs:
                for item in run.inputs:
                    self._join_edge(state, READ, item.ref, said, states)
                for output in run.outputs:
                    if not output.handed_on:
                        self._join_edge(state, WRITTEN, output.ref, said, states)
            for key in task.upstream:
                join_edge(state.upstream, str(states[key].id), order)
            for key in task.inferred:
                join_edge(state.inferred, str(states[key].id), order)
            self._dirty_tasks[pipeline, task.key] = state
        for dataset in said.lineage.datasets:
            if isinstance(dataset.ref, Made):
                state = states[dataset.ref.key]
                if only is None or state.id in only.tasks:
                    state.datasets.setdefault(dataset.ref.variable, DatasetState()).join(dataset, order)
            else:
                place = self._place(dataset.ref)
                if only is None or place.id in only.places:
                    place.facts.join(dataset, order)
                    self._dirty_places[dataset.ref] = place

    def _join_edge(
        self, state: TaskState, direction: int, ref: Ref, said: _Said, states: Mapping[TaskKey, TaskState]
    ) -> None:
        if direction == WRITTEN and isinstance(ref, Foreign) and not self._is_of_task(ref):
            return
        key = self._dataset_key(ref, states)
        if key is None:
            assert isinstance(ref, Foreign)  # noqa: S101  (the others always have a key)
            self._connection.exec_driver_sql(
                "INSERT INTO unresolved (execution, task, uri) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (said.execution, state.id, ref.uri),
            )
            return
        if isinstance(ref, Placed):
            self._dirty_places[ref] = self._place(ref)
        if join_edge(state.inputs if direction == READ else state.outputs, key, said.order):
            self._edges.append((key, direction, state.id))

    def _is_of_task(self, ref: Foreign) -> bool:
        """Whether what a cached or recovered task returned was made by the same task: else it was handed on."""
        found = self._resolved[ref.uri]
        if found is None or ref.fallback is None:
            return True
        query = "SELECT name FROM task WHERE id = ?"
        return bool(self._connection.exec_driver_sql(query, (found[0],)).scalar() == ref.fallback.key.task)

    def _dataset_key(self, ref: Ref, states: Mapping[TaskKey, TaskState]) -> str | None:
        if isinstance(ref, Foreign):
            found = self._resolved[ref.uri]
            if found is not None:
                return made_key(*found)
            if ref.fallback is None:
                return None
            ref = ref.fallback
        if isinstance(ref, Made):
            return made_key(states[ref.key].id, ref.variable)
        return place_key(self._place(ref).id)

    # -- joining anew ------------------------------------------------------------------------------------------------

    def _rejoin(self, runs: Sequence[_Said]) -> None:
        """Forget and join again, from all remembered runs, what these runs had touched."""
        self._flush_edges()  # the places' users are looked up among them
        only = _Only()
        pipelines: set[int] = set()
        for said in runs:
            pipeline = self._pipeline(said.pipeline)
            if pipeline.id not in pipelines:
                pipelines.add(pipeline.id)
                self._dirty_pipelines[said.pipeline] = PipelineState(pipeline.id)
                self._pipelines.put(said.pipeline, self._dirty_pipelines[said.pipeline])
            for task in said.lineage.tasks:
                row = (pipeline.id, task.key)
                state = self._task(*row)
                only.tasks.add(state.id)
                self._dirty_tasks[row] = self._reset(row, state)
            for dataset in said.lineage.datasets:
                if isinstance(dataset.ref, Placed):
                    place = self._place(dataset.ref)
                    only.places.add(place.id)
                    self._dirty_places[dataset.ref] = PlaceState(place.id)
                    self._places.put(dataset.ref, self._dirty_places[dataset.ref])
        for row_id in sorted(pipelines | self._pipelines_at(only.places)):
            rows = self._connection.exec_driver_sql("SELECT execution, document FROM run WHERE pipeline = ?", (row_id,))
            remembered = [_Said.of(execution, Lineage.from_json(document)) for execution, document in rows]
            self._prepare(remembered)
            for said in remembered:
                if row_id in pipelines:
                    self._join_pipeline(said)
                self._join(said, only)
        self._touched.tasks.update(only.tasks)
        self._touched.places.update(only.places)
        self._touched.pipelines.update(pipelines)
        self._touched.removed.update(pipelines)

    def _reset(self, row: TaskRow, state: TaskState) -> TaskState:
        self._touched.datasets.update(state.outputs)
        many(self._connection, "DELETE FROM edge WHERE task = ?", [(state.id,)])
        many(self._connection, "DELETE FROM unresolved WHERE task = ?", [(state.id,)])
        empty = TaskState(state.id)
        self._tasks.put(row, empty)
        return empty

    def _pipelines_at(self, places: Iterable[int]) -> set[int]:
        """The pipelines whose tasks read or write some places."""
        query = "SELECT DISTINCT t.pipeline FROM edge e JOIN task t ON t.id = e.task WHERE e.dataset IN ({})"
        return {row[0] for row in select_in(self._connection, query, sorted(place_key(place) for place in places))}

    # -- writing -----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        for key in [key for key, state in self._dirty_pipelines.items() if not state.rule]:
            self._pipelines.drop(key)  # its last run has moved to a better name
            many(self._connection, "DELETE FROM pipeline WHERE id = ?", [(self._dirty_pipelines.pop(key).id,)])
        many(
            self._connection,
            "UPDATE pipeline SET state = ? WHERE id = ?",
            [(state.dump(), state.id) for state in self._dirty_pipelines.values()],
        )
        gone = [(state.id,) for state in self._dirty_tasks.values() if state.first is None]
        for row in [row for row, state in self._dirty_tasks.items() if state.first is None]:
            self._tasks.drop(row)
        many(self._connection, "DELETE FROM task WHERE id = ?", gone)
        many(
            self._connection,
            "UPDATE task SET state = ? WHERE id = ?",
            [(state.dump(), state.id) for state in self._dirty_tasks.values() if state.first is not None],
        )
        self._flush_edges()
        self._flush_places()
        self._touched.tasks.update(state.id for state in self._dirty_tasks.values())
        self._touched.places.update(state.id for state in self._dirty_places.values())

    def _flush_edges(self) -> None:
        query = "INSERT INTO edge (dataset, direction, task) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        many(self._connection, query, self._edges)
        self._edges.clear()

    def _flush_places(self) -> None:
        """A place is there as long as a task reads or writes it, or a run knows something of it."""
        unknown = {place_key(s.id): place for place, s in self._dirty_places.items() if s.facts.where is None}
        query = "SELECT DISTINCT dataset FROM edge WHERE dataset IN ({})"
        used = {row[0] for row in select_in(self._connection, query, sorted(unknown))}
        for place in [place for key, place in unknown.items() if key not in used]:
            self._places.drop(place)
            self._touched.removed.add(NO_PIPELINE)
            gone = self._dirty_places.pop(place)
            many(self._connection, "DELETE FROM place WHERE id = ?", [(gone.id,)])
            self._touched.places.add(gone.id)
        many(
            self._connection,
            "UPDATE place SET state = ? WHERE id = ?",
            [(state.dump(), state.id) for state in self._dirty_places.values()],
        )


@dataclass(slots=True)
class _Only:
    """The states that are joined anew."""

    tasks: set[int] = field(default_factory=set)
    places: set[int] = field(default_factory=set)


def covers(new: Lineage | None, old: Lineage) -> bool:
    """Whether joining ``new`` takes nothing away from what ``old`` said: then no state need be joined anew."""
    if new is None or new.pipeline != old.pipeline or new.started_at != old.started_at:
        return False
    tasks = {task.key: task for task in new.tasks}
    for task in old.tasks:
        again = tasks.get(task.key)
        if again is None or not _edges(task) <= _edges(again) or not (task.type == again.type or not task.type):
            return False
        if not set(task.upstream) <= set(again.upstream) or not set(task.inferred) <= set(again.inferred):
            return False
    datasets = {dataset.ref: dataset for dataset in new.datasets}
    for dataset in old.datasets:
        other = datasets.get(dataset.ref)
        if other is None or (dataset.fields is not None and dataset.fields != other.fields):
            return False
    return old.tags in ((), new.tags) and old.owners in ((), new.owners)


def _edges(task: Any) -> set[tuple[int, Ref]]:
    edges = {(READ, item.ref) for run in task.runs for item in run.inputs}
    edges.update((WRITTEN, item.ref) for run in task.runs for item in run.outputs if not item.handed_on)
    return edges


def _rows(pipeline: int, lineage: Lineage) -> list[TaskRow]:
    return [(pipeline, task.key) for task in lineage.tasks]


def _has_fallback(said: _Said) -> bool:
    return any(ref.fallback is not None for ref in said.foreign)

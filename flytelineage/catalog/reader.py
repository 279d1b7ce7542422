"""Reading the catalog: stored states to the entities of :mod:`flytelineage.model`.

Numbers such as ``#2`` are made here: a Task is a position among the nodes that run the same Flyte task at one version,
so its name spans versions. Its present edges are those at its newest version, its other facts the latest run's
(DESIGN.md 2 and 4). A reader keeps what it has loaded: use one for one moment of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from flytelineage.catalog.locations import locations_of, uri_prefixes
from flytelineage.catalog.merge import NO_PIPELINE, WRITTEN
from flytelineage.catalog.state import (
    DatasetState,
    PipelineState,
    PlaceState,
    TaskState,
    made_key,
    place_key,
    split_key,
)
from flytelineage.inbox.database import select_in
from flytelineage.lineage.naming import natural_key, numbered, short_task
from flytelineage.lineage.types import Foreign, Lineage, Made, Ref, TaskKey, load_fields
from flytelineage.model import (
    UNRESOLVED,
    Dataset,
    NamingRule,
    Pipeline,
    Run,
    Task,
    TaskRun,
    TaskRunInput,
    TaskRunOutput,
)

_RUNS_TOGETHER = 200
FLYTE = "flyte"
"""Platform of run-scoped datasets."""


class TaskId(NamedTuple):
    """A Task across versions: the position among the nodes that run the same Flyte task."""

    pipeline: int
    name: str
    position: int


class DatasetId(NamedTuple):
    """A run-scoped dataset across versions."""

    task: TaskId
    variable: str


@dataclass(slots=True)
class _Row:
    """A row of the ``task`` table, with the Task that it belongs to."""

    key: TaskKey
    state: TaskState
    task: TaskId = TaskId(0, "", 0)


@dataclass(slots=True)
class _PipelineRows:
    """A pipeline with all its tasks at all versions."""

    name: str
    state: PipelineState
    rows: dict[TaskKey, _Row] = field(default_factory=dict)
    tasks: dict[TaskId, list[_Row]] = field(default_factory=dict)
    version_first: dict[tuple[str, str], Any] = field(default_factory=dict)


class CatalogReader:
    """Renders entities from one connection. Not thread-safe.

    Args:
        connection: to read from.
        resolved_only: leave out what nobody is known to have written; for targets, which never hear of it.
    """

    def __init__(self, connection: Connection, *, resolved_only: bool = False) -> None:
        self._connection = connection
        self._resolved_only = resolved_only
        self._pipelines: dict[int, _PipelineRows | None] = {}
        self._rows: dict[int, _Row] = {}
        self._places: dict[int, tuple[str, str, PlaceState]] = {}
        self._locations: dict[str, tuple[int, str] | None] = {}

    # -- what there is -----------------------------------------------------------------------------------------------

    def pipeline_ids(self) -> list[int]:
        """All pipelines' row ids."""
        return list(self._connection.exec_driver_sql("SELECT id FROM pipeline ORDER BY id").scalars())

    def place_ids(self) -> list[int]:
        """All placed datasets' row ids."""
        return list(self._connection.exec_driver_sql("SELECT id FROM place ORDER BY id").scalars())

    def run_ids(self, pipelines: Iterable[int] | None = None) -> list[int]:
        """The execution row ids of all remembered runs, or of those of some pipelines."""
        if pipelines is None:
            return list(self._connection.exec_driver_sql("SELECT execution FROM run ORDER BY execution").scalars())
        query = "SELECT execution FROM run WHERE pipeline IN ({}) ORDER BY execution"
        return [row[0] for row in select_in(self._connection, query, sorted(pipelines))]

    def task_ids(self, pipeline: int) -> list[TaskId]:
        """The Tasks of a pipeline."""
        loaded = self._pipeline(pipeline)
        return [] if loaded is None else list(loaded.tasks)

    def dataset_ids(self, task: TaskId) -> list[DatasetId]:
        """The run-scoped datasets that a Task has ever made."""
        variables: set[str] = set()
        for row in self._task_rows(task):
            variables.update(row.state.datasets)
            own = row.state.id
            for key in row.state.outputs:
                row_id, variable = split_key(key)
                if variable is not None and row_id == own:
                    variables.add(variable)
        return [DatasetId(task, variable) for variable in sorted(variables)]

    def task_of_row(self, row_id: int) -> TaskId | None:
        """The Task that a row of the ``task`` table belongs to; None: there is no such row any more."""
        row = self._row(row_id)
        return None if row is None else row.task

    def count(self) -> tuple[int, int]:
        """How many Tasks and how many datasets there are."""
        tasks = [task for pipeline in self.pipeline_ids() for task in self.task_ids(pipeline)]
        datasets = sum(len(self.dataset_ids(task)) for task in tasks)
        return len(tasks), datasets + len(self.place_ids()) + len(self.unresolved())

    def rows_of(self, task: TaskId) -> list[int]:
        """The rows of the ``task`` table that a Task has, one a version."""
        return [row.state.id for row in self._task_rows(task)]

    def outputs_of(self, task: TaskId) -> set[str]:
        """Keys of the datasets that a Task has ever written."""
        return {key for row in self._task_rows(task) for key in row.state.outputs}

    def tasks_named_like(self, rows: Iterable[int]) -> set[TaskId]:
        """The Tasks of some rows, and those that run the same Flyte task: they share the order of its versions."""
        tasks = {task for task in map(self.task_of_row, rows) if task is not None}
        names = {(task.pipeline, task.name) for task in tasks}
        return {t for p in {task.pipeline for task in tasks} for t in self.task_ids(p) if (t.pipeline, t.name) in names}

    def renumbered(self, new_tasks: Iterable[int]) -> set[int]:
        """The pipelines in which a new row stands before others of the same task and version."""
        found = set()
        for row_id in new_tasks:
            row = self._row(row_id)
            if row is not None and len(self._siblings(row)) > row.task.position + 1:
                found.add(row.task.pipeline)
        return found

    def _siblings(self, row: _Row) -> list[_Row]:
        loaded = self._pipeline(row.task.pipeline)
        assert loaded is not None  # noqa: S101  (it has the row)
        return [other for other in loaded.rows.values() if other.key[:2] == row.key[:2]]

    def pipeline_key(self, pipeline: int) -> str | None:
        """The pipeline's name, after instance and org where it has any; unique in the catalog."""
        row = self._connection.exec_driver_sql(
            "SELECT instance, org, name FROM pipeline WHERE id = ?", (pipeline,)
        ).first()
        return None if row is None else "/".join(part for part in row if part)

    def execution_key(self, execution: int) -> tuple[str, int]:
        """The execution's key, and the pipeline of its run (NO_PIPELINE: it has none any more)."""
        row = self._connection.exec_driver_sql(
            "SELECT e.key, r.pipeline FROM execution e LEFT JOIN run r ON r.execution = e.id WHERE e.id = ?",
            (execution,),
        ).one()
        return row[0], NO_PIPELINE if row[1] is None else row[1]

    def place_identity(self, place: int) -> tuple[str, str] | None:
        """Platform and name of a place."""
        found = self._place(place)
        return None if found is None else found[:2]

    def place_id(self, platform: str, name: str) -> int | None:
        """The row of a place."""
        row_id: int | None = self._connection.exec_driver_sql(
            "SELECT id FROM place WHERE platform = ? AND name = ?", (platform, name)
        ).scalar()
        return row_id

    # -- entities ----------------------------------------------------------------------------------------------------

    def pipeline(self, pipeline: int) -> Pipeline | None:
        """One pipeline; None: there is none any more."""
        loaded = self._pipeline(pipeline)
        if loaded is None:
            return None
        state = loaded.state
        return Pipeline(
            name=loaded.name,
            project=state.project,
            domain=state.domain,
            workflow=state.workflow,
            naming_rule=NamingRule(state.rule),
            owners=_values(state.owners),
            tags=_values(state.tags),
            tasks=tuple(sorted(self.task_name(task) for task in loaded.tasks)),
        )

    def task(self, task: TaskId) -> Task | None:
        """One Task; None: there is none any more."""
        rows = self._task_rows(task)
        loaded = self._pipeline(task.pipeline)
        if not rows or loaded is None:
            return None
        newest = self._newest(task)
        latest = max(rows, key=lambda row: row.state.last or [])
        name = latest.state.flyte_task or [None, latest.key.task]
        kinds = [row.state.type for row in rows if row.state.type is not None]
        return Task(
            pipeline=loaded.name,
            name=self.task_name(task),
            flyte_task=name[1],
            version=latest.key.version or None,
            type=max(kinds)[1] if kinds else None,
            inputs=tuple(sorted(self._inputs(newest))),
            outputs=tuple(sorted(self._names(newest.state.outputs))),
            upstream=tuple(sorted(self._task_names(newest.state.upstream))),
            inferred_upstream=tuple(sorted(self._task_names(newest.state.inferred))),
        )

    def dataset(self, dataset: DatasetId) -> Dataset | None:
        """One run-scoped dataset; None: there is none any more."""
        rows = self._task_rows(dataset.task)
        if not rows or dataset not in self.dataset_ids(dataset.task):
            return None
        loaded = self._pipeline(dataset.task.pipeline)
        assert loaded is not None  # noqa: S101  (it has rows)
        known = [row.state.datasets[dataset.variable] for row in rows if dataset.variable in row.state.datasets]
        name = self.dataset_name(dataset)
        keys = [made_key(row.state.id, dataset.variable) for row in rows]
        return _dataset(
            _joined(known),
            name=name,
            platform=FLYTE,
            pipeline=loaded.name,
            task=self.task_name(dataset.task),
            variable=dataset.variable,
            upstreams=self._upstreams(name, keys),
        )

    def place(self, place: int) -> Dataset | None:
        """One placed dataset; None: there is none any more."""
        found = self._place(place)
        if found is None:
            return None
        platform, name, state = found
        return _dataset(state.facts, name=name, platform=platform, upstreams=self._upstreams(name, [place_key(place)]))

    def unresolved(self, tasks: Iterable[TaskId] | None = None) -> list[Dataset]:
        """The datasets that nobody is known to have written, read by some Tasks or by any, by name."""
        rows = self._connection.exec_driver_sql("SELECT DISTINCT uri, task FROM unresolved").all()
        wanted = None if tasks is None else set(tasks)
        uris = {uri for uri, task in rows if wanted is None or self.task_of_row(task) in wanted}
        return [Dataset(name=uri, platform=UNRESOLVED, uris=(uri,)) for uri in sorted(uris)]

    def run(self, execution: int) -> Run | None:
        """One run; None: there is none any more."""
        return next(self.runs([execution]), None)

    def runs(self, executions: Sequence[int]) -> Iterator[Run]:
        """Some runs, in the order asked for."""
        query = "SELECT execution, pipeline, document FROM run WHERE execution IN ({})"
        for start in range(0, len(executions), _RUNS_TOGETHER):
            part = executions[start : start + _RUNS_TOGETHER]
            found = {
                execution: (pipeline, Lineage.from_json(document))
                for execution, pipeline, document in select_in(self._connection, query, part)
            }
            self._resolve([lineage for _, lineage in found.values()])
            for execution in part:
                if execution in found:
                    yield self._run(*found[execution])

    # -- names -------------------------------------------------------------------------------------------------------

    def task_name(self, task: TaskId) -> str:
        """The Task's name, with its number."""
        return numbered(task.name, task.position)

    def dataset_name(self, dataset: DatasetId) -> str:
        """``<pipeline>.<task without the pipeline's module>.<variable>``."""
        loaded = self._pipeline(dataset.task.pipeline)
        if loaded is None:
            return ""
        task = short_task(self.task_name(dataset.task), loaded.state.module)
        return f"{loaded.name}.{task}.{dataset.variable}"

    def _name_of(self, key: str) -> str | None:
        """The name of the dataset behind an edge."""
        row_id, variable = split_key(key)
        if variable is None:
            place = self._place(row_id)
            return None if place is None else place[1]
        row = self._row(row_id)
        return None if row is None else self.dataset_name(DatasetId(row.task, variable))

    def _names(self, keys: Iterable[str]) -> set[str]:
        self._load_rows(row_id for row_id, variable in map(split_key, keys) if variable is not None)
        return {name for name in map(self._name_of, keys) if name is not None}

    def _task_names(self, row_ids: Iterable[str]) -> set[str]:
        rows = (self._row(int(row_id)) for row_id in row_ids)
        return {self.task_name(row.task) for row in rows if row is not None}

    # -- edges -------------------------------------------------------------------------------------------------------

    def _newest(self, task: TaskId) -> _Row:
        """The Task at its newest version: the one first run last (DESIGN.md 2)."""
        loaded = self._pipeline(task.pipeline)
        assert loaded is not None  # noqa: S101  (the caller has rows)
        first = loaded.version_first
        return max(self._task_rows(task), key=lambda row: (first[row.key.task, row.key.version], row.key.version))

    def _inputs(self, row: _Row) -> set[str]:
        if self._resolved_only:
            return self._names(row.state.inputs)
        query = "SELECT DISTINCT uri FROM unresolved WHERE task = ?"
        unresolved = self._connection.exec_driver_sql(query, (row.state.id,)).scalars()
        return self._names(row.state.inputs) | set(unresolved)

    def _upstreams(self, name: str, keys: Sequence[str]) -> tuple[str, ...]:
        """What a dataset was made from: the present inputs of the Tasks that write it, without itself."""
        writers: set[TaskId] = set()
        query = "SELECT DISTINCT task FROM edge WHERE direction = ? AND dataset IN ({})"
        for (row_id,) in select_in(self._connection, query, keys, (WRITTEN,)):
            task = self.task_of_row(row_id)
            if task is not None:
                writers.add(task)
        found: set[str] = set()
        for task in writers:
            newest = self._newest(task)
            if not newest.state.outputs.keys().isdisjoint(keys):
                found |= self._inputs(newest)
        return tuple(sorted(found - {name}))

    def runs_that_read(self, pipeline: int) -> list[int]:
        """Runs, of any pipeline, that refer by URI to data of this one."""
        query = (
            "SELECT DISTINCT r.execution FROM reference r JOIN location l ON l.hash = r.hash"
            " JOIN task t ON t.id = l.task JOIN run ON run.execution = r.execution WHERE t.pipeline = ?"
        )
        return list(self._connection.exec_driver_sql(query, (pipeline,)).scalars())

    def users_of(self, keys: Sequence[str]) -> set[int]:
        """Rows of the tasks that read or write some datasets, given as keys of edges."""
        query = "SELECT DISTINCT task FROM edge WHERE dataset IN ({})"
        return {row[0] for row in select_in(self._connection, query, keys)}

    # -- runs --------------------------------------------------------------------------------------------------------

    def _resolve(self, lineages: Iterable[Lineage]) -> None:
        """Look up what the foreign URIs of some runs are, all at once."""
        uris = {
            ref.uri
            for lineage in lineages
            for task in lineage.tasks
            for run in task.runs
            for ref in run.refs
            if isinstance(ref, Foreign)
        } - self._locations.keys()
        wanted = {prefix for uri in uris for prefix in uri_prefixes(uri)}
        found = locations_of(self._connection, wanted)
        for uri in uris:
            self._locations[uri] = next((found[prefix] for prefix in uri_prefixes(uri) if prefix in found), None)

    def _run(self, pipeline: int, lineage: Lineage) -> Run:
        loaded = self._pipeline(pipeline)
        assert loaded is not None  # noqa: S101  (a run's pipeline is there as long as the run)
        runs = []
        for task in lineage.tasks:
            name = self.task_name(loaded.rows[task.key].task)
            for run in task.runs:
                entity = TaskRun(
                    task=name,
                    node_id=run.node_id,
                    attempt=run.attempt,
                    index=run.map_index,
                    phase=run.phase,
                    started_at=_moment(run.started_at),
                    ended_at=_moment(run.ended_at),
                    cached=run.cached,
                    source_execution=run.source_execution,
                    inputs=tuple(
                        TaskRunInput(item.variable, dataset, item.uri)
                        for item in run.inputs
                        if (dataset := self._ref_name(loaded, item.ref)) is not None
                    ),
                    outputs=tuple(
                        TaskRunOutput(item.variable, dataset, item.uri, item.handed_on)
                        for item in run.outputs
                        if (dataset := self._ref_name(loaded, item.ref)) is not None
                    ),
                )
                index = -1 if run.map_index is None else run.map_index
                runs.append(((natural_key(run.path), run.attempt, index, name), entity))
        runs.sort(key=lambda item: item[0])
        return Run(
            execution=lineage.execution,
            pipeline=loaded.name,
            phase=lineage.phase,
            started_at=_moment(lineage.started_at),
            ended_at=_moment(lineage.ended_at),
            parent=lineage.parent,
            tasks=tuple(entity for _, entity in runs),
        )

    def _ref_name(self, pipeline: _PipelineRows, ref: Ref) -> str | None:
        """The name of a dataset that a run refers to; None when it is left out."""
        if isinstance(ref, Foreign):
            found = self._locations[ref.uri]
            name = None if found is None else self._name_of(made_key(*found))
            if name is not None:
                return name
            if ref.fallback is None:
                return None if self._resolved_only else ref.uri
            ref = ref.fallback
        if isinstance(ref, Made):
            return self.dataset_name(DatasetId(pipeline.rows[ref.key].task, ref.variable))
        return ref.name

    # -- loading -----------------------------------------------------------------------------------------------------

    def _pipeline(self, pipeline: int) -> _PipelineRows | None:
        if pipeline not in self._pipelines:
            self._pipelines[pipeline] = self._load_pipeline(pipeline)
        return self._pipelines[pipeline]

    def _load_pipeline(self, pipeline: int) -> _PipelineRows | None:
        found = self._connection.exec_driver_sql("SELECT name, state FROM pipeline WHERE id = ?", (pipeline,)).first()
        if found is None or not found[1]:
            return None
        loaded = _PipelineRows(found[0], PipelineState.load(pipeline, found[1]))
        rows = self._connection.exec_driver_sql(
            "SELECT id, name, version, path, state FROM task WHERE pipeline = ? AND state != ''", (pipeline,)
        )
        for row_id, name, version, path, text in rows:
            key = TaskKey(name, version, path)
            loaded.rows[key] = self._rows[row_id] = _Row(key, TaskState.load(row_id, text))
        siblings: dict[tuple[str, str], list[_Row]] = {}
        for row in loaded.rows.values():
            siblings.setdefault((row.key.task, row.key.version), []).append(row)
        for (name, version), members in siblings.items():
            members.sort(key=lambda row: natural_key(row.key.path))
            loaded.version_first[name, version] = min(row.state.first or [] for row in members)
            for position, row in enumerate(members):
                row.task = TaskId(pipeline, name, position)
                loaded.tasks.setdefault(row.task, []).append(row)
        return loaded

    def _task_rows(self, task: TaskId) -> list[_Row]:
        loaded = self._pipeline(task.pipeline)
        return [] if loaded is None else loaded.tasks.get(task, [])

    def _row(self, row_id: int) -> _Row | None:
        if row_id not in self._rows:
            self._load_rows([row_id])
        return self._rows.get(row_id)

    def _load_rows(self, row_ids: Iterable[int]) -> None:
        """Load the pipelines that some task rows belong to."""
        missing = sorted({row_id for row_id in row_ids if row_id not in self._rows})
        query = "SELECT DISTINCT pipeline FROM task WHERE id IN ({})"
        for (pipeline,) in select_in(self._connection, query, missing):
            self._pipeline(pipeline)

    def _place(self, place: int) -> tuple[str, str, PlaceState] | None:
        if place not in self._places:
            row = self._connection.exec_driver_sql(
                "SELECT platform, name, state FROM place WHERE id = ?", (place,)
            ).first()
            if row is None or not row[2]:
                return None
            self._places[place] = (row[0], row[1], PlaceState.load(place, row[2]))
        return self._places[place]


def _joined(states: Sequence[DatasetState]) -> DatasetState:
    """One dataset's facts over its versions."""
    where = max((s.where for s in states if s.where is not None), default=None, key=lambda fact: fact[0])
    schema = max((s.schema for s in states if s.schema is not None), default=None, key=lambda fact: fact[0])
    return DatasetState(where, schema)


def _dataset(facts: DatasetState, **identity: Any) -> Dataset:
    form, uris = facts.where[1:] if facts.where is not None else ("", ())
    fields, source, rows, size = facts.schema[1:] if facts.schema is not None else (None, None, None, None)
    return Dataset(
        **identity,
        format=form or None,
        uris=tuple(uris),
        fields=load_fields(fields) or (),
        schema_source=source,
        rows=rows,
        bytes=size,
    )


def _values(fact: list[Any] | None) -> tuple[str, ...]:
    return () if fact is None else tuple(fact[1])


def _moment(nanoseconds: int) -> datetime | None:
    """An aware datetime; what is below a microsecond is cut off."""
    if not nanoseconds:
        return None
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1_000)

"""What one execution says: the value that build makes, the inbox's run rows keep, and the catalog merges.

A dataset is referred to by what the execution itself can know of it: a variable that a task of this pipeline made, a
place in storage, or a URI that another execution wrote (the catalog resolves it, now or when its writer is derived).
Times are nanoseconds since the epoch, UTC; 0 is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from flytelineage.model import ExecutionId, Field, NamingRule


class TaskKey(NamedTuple):
    """Storage identity of a Task within its pipeline (DESIGN.md 4): numbers such as ``#2`` are labels, made when shown.

    Attributes:
        task: Flyte task name without what flytekit adds for a map.
        version: task version.
        path: spec path of the node, ``n2`` or ``n0/dn1``; that of the outermost dynamic or map for what is below one.
    """

    task: str
    version: str
    path: str


class Made(NamedTuple):
    """A run-scoped dataset: ``variable`` of a task of this pipeline."""

    key: TaskKey
    variable: str


class Placed(NamedTuple):
    """A dataset named by where it lies."""

    platform: str
    name: str


class Foreign(NamedTuple):
    """Run-scoped data of another execution, known by its normalised URI.

    ``fallback`` is the dataset when the writer was never derived: the present task's own for a cache hit or a
    recovered node, else None (an unresolved dataset).
    """

    uri: str
    fallback: Made | None


Ref = Made | Placed | Foreign


class Input(NamedTuple):
    """One location that a task run read."""

    variable: str
    ref: Ref
    uri: str


class Output(NamedTuple):
    """One location that a task run returned; handed on: it wrote nothing there."""

    variable: str
    ref: Ref
    uri: str
    handed_on: bool


class TaskRunLineage(NamedTuple):
    """One attempt of one node."""

    node_id: str
    path: str
    attempt: int
    map_index: int | None
    phase: str
    started_at: int
    ended_at: int
    cached: bool
    source_execution: str | None
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Every dataset that it read or returned."""
        return (*(item.ref for item in self.inputs), *(item.ref for item in self.outputs))


class TaskLineage(NamedTuple):
    """What the execution says of one Task. ``upstream`` is proved; ``inferred`` comes from the order in time."""

    key: TaskKey
    flyte_task: str
    type: str
    runs: tuple[TaskRunLineage, ...]
    upstream: tuple[TaskKey, ...]
    inferred: tuple[TaskKey, ...]


class DatasetLineage(NamedTuple):
    """Facts of a dataset in this execution; None and () are unknown.

    Attributes:
        ref: made by a task of this execution, or placed.
        wrote: whether the execution wrote it (or only read it).
        format: as the literal says.
        uris: its locations, normalised, sorted.
        fields: None when the schema is not known.
        schema_source: ``file`` when the data file said it.
    """

    ref: Made | Placed
    wrote: bool
    format: str
    uris: tuple[str, ...]
    fields: tuple[Field, ...] | None = None
    schema_source: str | None = None
    rows: int | None = None
    bytes: int | None = None


class Lineage(NamedTuple):
    """What one successful execution says: a Run, and its contribution to Pipelines, Tasks and Datasets."""

    execution: ExecutionId
    phase: str
    phase_inferred: bool
    started_at: int
    ended_at: int
    parent: str | None
    workflow: str
    module: str
    naming_rule: NamingRule
    tags: tuple[str, ...]
    owners: tuple[str, ...]
    tasks: tuple[TaskLineage, ...]
    datasets: tuple[DatasetLineage, ...]

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return f"{self.execution.domain}.{self.execution.project}.{self.workflow}"

    def to_json(self) -> str:
        """The stored form; :meth:`from_json` undoes it."""
        document = [
            _FORMAT,
            list(self.execution),
            [self.phase, self.phase_inferred, self.started_at, self.ended_at, self.parent],
            [self.workflow, self.module, self.naming_rule, self.tags, self.owners],
            [
                [
                    [*task.key],
                    task.flyte_task,
                    task.type,
                    [
                        [
                            run.node_id,
                            run.path,
                            run.attempt,
                            run.map_index,
                            run.phase,
                            run.started_at,
                            run.ended_at,
                            run.cached,
                            run.source_execution,
                            [[variable, _dump_ref(ref), uri] for variable, ref, uri in run.inputs],
                            [[variable, _dump_ref(ref), uri, on] for variable, ref, uri, on in run.outputs],
                        ]
                        for run in task.runs
                    ],
                    [[*key] for key in task.upstream],
                    [[*key] for key in task.inferred],
                ]
                for task in self.tasks
            ],
            [
                [
                    _dump_ref(dataset.ref),
                    dataset.wrote,
                    dataset.format,
                    dataset.uris,
                    dump_fields(dataset.fields),
                    dataset.schema_source,
                    dataset.rows,
                    dataset.bytes,
                ]
                for dataset in self.datasets
            ],
        ]
        return orjson.dumps(document).decode()

    @classmethod
    def from_json(cls, text: str) -> Lineage:
        """Read what :meth:`to_json` wrote."""
        _, execution, (phase, inferred, started, ended, parent), pipeline, tasks, datasets = orjson.loads(text)
        workflow, module, rule, tags, owners = pipeline
        return cls(
            ExecutionId(*execution),
            phase,
            inferred,
            started,
            ended,
            parent,
            workflow,
            module,
            NamingRule(rule),
            tuple(tags),
            tuple(owners),
            tuple(
                TaskLineage(TaskKey(*key), name, kind, tuple(map(_load_run, runs)), _keys(upstream), _keys(guessed))
                for key, name, kind, runs, upstream, guessed in tasks
            ),
            tuple(
                DatasetLineage(_load_known(ref), wrote, form, tuple(uris), load_fields(fields), source, rows, size)
                for ref, wrote, form, uris, fields, source, rows, size in datasets
            ),
        )


_FORMAT = 1
"""Version of the stored form."""


def dump_fields(fields: Iterable[Field] | None) -> list[list[Any]] | None:
    """A schema as JSON values."""
    return None if fields is None else [[field.name, field.type, field.nullable] for field in fields]


def load_fields(value: list[list[Any]] | None) -> tuple[Field, ...] | None:
    """Undo :func:`dump_fields`."""
    return None if value is None else tuple(Field(*field) for field in value)


def _dump_ref(ref: Ref) -> list[Any]:
    if isinstance(ref, Made):
        return [0, *ref.key, ref.variable]
    if isinstance(ref, Placed):
        return [1, *ref]
    return [2, ref.uri, None if ref.fallback is None else _dump_ref(ref.fallback)]


def _load_ref(value: list[Any]) -> Ref:
    if value[0] == 2:
        fallback = value[2]
        return Foreign(value[1], None if fallback is None else Made(TaskKey(*fallback[1:4]), fallback[4]))
    return _load_known(value)


def _load_known(value: list[Any]) -> Made | Placed:
    return Made(TaskKey(*value[1:4]), value[4]) if value[0] == 0 else Placed(*value[1:])


def _load_run(value: list[Any]) -> TaskRunLineage:
    node_id, path, attempt, index, phase, started, ended, cached, source, inputs, outputs = value
    return TaskRunLineage(
        node_id,
        path,
        attempt,
        index,
        phase,
        started,
        ended,
        cached,
        source,
        tuple(Input(variable, _load_ref(ref), uri) for variable, ref, uri in inputs),
        tuple(Output(variable, _load_ref(ref), uri, on) for variable, ref, uri, on in outputs),
    )


def _keys(values: list[list[str]]) -> tuple[TaskKey, ...]:
    return tuple(TaskKey(*value) for value in values)

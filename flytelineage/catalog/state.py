"""What the catalog keeps of a task and of a place: joins over runs.

Each part is a maximum, a minimum or a union over what the runs say, so that merging is idempotent and needs no order
(DESIGN.md 2 and 3.2). A run's place in the order is its (start, name): :class:`RunOrder`. What a run no longer says is
not taken back here: the state is joined anew from the remembered runs (:mod:`flytelineage.catalog.merge`).

The values are JSON lists and objects, as stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from flytelineage.lineage.types import DatasetLineage, dump_fields
from flytelineage.model import ExecutionId

RunOrder = list[Any]
"""[start in nanoseconds, a text that begins with the execution's name]: comparable, and unique."""


def run_order(started_at: int, execution: ExecutionId) -> RunOrder:
    """The place of a run among all: its start, then its name (the rest of its key makes the order total)."""
    return [
        started_at,
        "/".join((execution.name, execution.domain, execution.project, execution.org, execution.instance)),
    ]


def made_key(task: int, variable: str) -> str:
    """The dataset that a task made, as a key of edges."""
    return f"m:{task}:{variable}"


def place_key(place: int) -> str:
    """A placed dataset, as a key of edges."""
    return f"p:{place}"


def split_key(key: str) -> tuple[int, str | None]:
    """Undo both: row id, and the variable of a made dataset (None: a place)."""
    kind, _, rest = key.partition(":")
    if kind == "p":
        return int(rest), None
    task, _, variable = rest.partition(":")
    return int(task), variable


def latest(current: list[Any] | None, order: RunOrder, *values: Any) -> list[Any]:
    """Join a fact: that of the later run. A fact is [order, values...]."""
    return [order, *values] if current is None or order >= current[0] else current


@dataclass(slots=True)
class DatasetState:
    """Facts of one dataset, each from the latest run that knew it.

    Attributes:
        where: [order, format, uris].
        schema: [order, fields, source, rows, bytes].
        schemas: earlier and present schemas: fields as JSON to [first order, last order].
    """

    where: list[Any] | None = None
    schema: list[Any] | None = None
    schemas: dict[str, list[Any]] = field(default_factory=dict)

    def join(self, facts: DatasetLineage, order: RunOrder) -> None:
        """Take in what one run says."""
        self.where = latest(self.where, order, facts.format, list(facts.uris))
        if facts.fields is not None:
            fields = dump_fields(facts.fields)
            self.schema = latest(self.schema, order, fields, facts.schema_source, facts.rows, facts.bytes)
            text = orjson.dumps(fields).decode()
            seen = self.schemas.get(text)
            self.schemas[text] = [order, order] if seen is None else [min(seen[0], order), max(seen[1], order)]

    def dump(self) -> list[Any]:
        """As stored."""
        return [self.where, self.schema, self.schemas]

    @classmethod
    def load(cls, value: list[Any]) -> DatasetState:
        """Undo :meth:`dump`."""
        return cls(*value)


@dataclass(slots=True)
class TaskState:
    """One node of a pipeline's workflow that runs code, at one task version.

    Attributes:
        first, last: orders of the first and the last run that ran it.
        flyte_task: [order, full Flyte task name].
        type: [order, task type] of the last run that knew it.
        inputs, outputs: edges, dataset key to the order of the last run that showed it.
        upstream, inferred: edges, task row id (as text) to the order of the last run that showed it.
        datasets: what it made, by variable.
    """

    id: int = 0
    first: RunOrder | None = None
    last: RunOrder | None = None
    flyte_task: list[Any] | None = None
    type: list[Any] | None = None
    inputs: dict[str, RunOrder] = field(default_factory=dict)
    outputs: dict[str, RunOrder] = field(default_factory=dict)
    upstream: dict[str, RunOrder] = field(default_factory=dict)
    inferred: dict[str, RunOrder] = field(default_factory=dict)
    datasets: dict[str, DatasetState] = field(default_factory=dict)

    def saw(self, order: RunOrder, flyte_task: str, kind: str) -> None:
        """Take in that a run ran it."""
        self.first = order if self.first is None else min(self.first, order)
        self.last = order if self.last is None else max(self.last, order)
        self.flyte_task = latest(self.flyte_task, order, flyte_task)
        if kind:
            self.type = latest(self.type, order, kind)

    def dump(self) -> str:
        """As stored."""
        return orjson.dumps(
            [
                self.first,
                self.last,
                self.flyte_task,
                self.type,
                self.inputs,
                self.outputs,
                self.upstream,
                self.inferred,
                {variable: dataset.dump() for variable, dataset in self.datasets.items()},
            ]
        ).decode()

    @classmethod
    def load(cls, row_id: int, text: str) -> TaskState:
        """Undo :meth:`dump`."""
        values: list[Any] = orjson.loads(text)
        values[-1] = {variable: DatasetState.load(value) for variable, value in values[-1].items()}
        return cls(row_id, *values)


def join_edge(edges: dict[str, RunOrder], key: str, order: RunOrder) -> bool:
    """Take in an edge that a run showed; returns whether it is new."""
    seen = edges.get(key)
    if seen is None or order > seen:
        edges[key] = order
    return seen is None


@dataclass(slots=True)
class PipelineState:
    """A pipeline's own facts: [order, value] each, of the latest run that knew it; ``rule`` the best ever known."""

    id: int = 0
    project: str = ""
    domain: str = ""
    workflow: str = ""
    module: str = ""
    rule: str = ""
    tags: list[Any] | None = None
    owners: list[Any] | None = None

    def dump(self) -> str:
        """As stored."""
        return orjson.dumps(
            [self.project, self.domain, self.workflow, self.module, self.rule, self.tags, self.owners]
        ).decode()

    @classmethod
    def load(cls, row_id: int, text: str) -> PipelineState:
        """Undo :meth:`dump`."""
        return cls(row_id, *orjson.loads(text))


@dataclass(slots=True)
class PlaceState:
    """A placed dataset: its facts, from the latest run that wrote or read it."""

    id: int = 0
    facts: DatasetState = field(default_factory=DatasetState)

    def dump(self) -> str:
        """As stored."""
        return orjson.dumps(self.facts.dump()).decode()

    @classmethod
    def load(cls, row_id: int, text: str) -> PlaceState:
        """Undo :meth:`dump`."""
        return cls(row_id, DatasetState.load(orjson.loads(text)))

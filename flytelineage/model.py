"""The lineage model: Pipeline, Task, Dataset, Run.

Frozen values without I/O and without SDK types. What the catalog shows and what targets receive is made of these.
``None`` or an empty tuple means *unknown*, never "empty it". Times are aware datetimes in UTC.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

_RUN_NAMESPACE = uuid.UUID("8d5c0a35-6b0f-5b5e-9b43-0c4ed55ad8f1")
"""Namespace of our run ids (a constant of this project; changing it renames every run in every target)."""


class ExecutionId(NamedTuple):
    """A Flyte workflow execution within one org of one Flyte instance."""

    instance: str
    org: str
    project: str
    domain: str
    name: str

    @property
    def key(self) -> str:
        """The five parts joined by slashes: unique, because Flyte's identifiers never hold one."""
        return "/".join(self)

    @classmethod
    def from_key(cls, key: str) -> ExecutionId:
        """Undo :attr:`key`."""
        return cls(*key.split("/"))

    def __str__(self) -> str:
        """Flyte's own spelling, ``project/domain/name``."""
        return f"{self.project}/{self.domain}/{self.name}"


def run_id(
    execution: ExecutionId, node_path: str = "", attempt: int | None = None, index: int | None = None
) -> uuid.UUID:
    """The deterministic id of a run, or of a task run inside it (DESIGN.md 4)."""
    parts = (*execution, node_path, "" if attempt is None else str(attempt), "" if index is None else str(index))
    return uuid.uuid5(_RUN_NAMESPACE, "\x1f".join(parts))


class NamingRule(StrEnum):
    """How a pipeline got its workflow's name, weakest first (DESIGN.md 4)."""

    MODULE = "module"
    """The Python module of the first node's task: workflows of one module share a pipeline."""
    LAUNCH_PLAN = "launch_plan"
    """A CloudEvents v2 launch plan whose module is that of a task."""
    WORKFLOW = "workflow"
    """FlyteAdmin said so."""

    @property
    def rank(self) -> int:
        """Greater is better known."""
        return list(NamingRule).index(self)


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a dataset; ``type`` is Arrow's own name, nested types whole."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A Flyte workflow as the remembered runs show it."""

    name: str
    project: str
    domain: str
    workflow: str
    naming_rule: NamingRule
    description: str | None = None
    owners: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    url: str | None = None
    metadata: Mapping[str, str] | None = None
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A node of a pipeline that runs code. Edges are names of datasets and of tasks of the same pipeline, sorted."""

    pipeline: str
    name: str
    flyte_task: str
    version: str | None
    type: str | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    inferred_upstream: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None


UNRESOLVED = "unresolved"
"""Platform of a dataset whose writer has not been derived (yet): in the catalog only, never sent."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Data that tasks write or read. Placed datasets have no pipeline, task and variable."""

    name: str
    platform: str
    pipeline: str | None = None
    task: str | None = None
    variable: str | None = None
    format: str | None = None
    uris: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    schema_source: str | None = None
    rows: int | None = None
    bytes: int | None = None
    upstreams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRunInput:
    """A dataset that a task run read, and where."""

    variable: str
    dataset: str
    uri: str | None


@dataclass(frozen=True, slots=True)
class TaskRunOutput:
    """A dataset that a task run wrote, or handed on unchanged."""

    variable: str
    dataset: str
    uri: str | None
    handed_on: bool


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One attempt of a task in a run, or one index of a map."""

    task: str
    node_id: str
    attempt: int
    index: int | None
    phase: str
    started_at: datetime | None
    ended_at: datetime | None
    cached: bool
    source_execution: str | None
    inputs: tuple[TaskRunInput, ...] = ()
    outputs: tuple[TaskRunOutput, ...] = ()


@dataclass(frozen=True)
class Run:
    """What one execution did."""

    execution: ExecutionId
    pipeline: str
    phase: str
    started_at: datetime | None
    ended_at: datetime | None
    parent: str | None = None
    tasks: tuple[TaskRun, ...] = ()

    @cached_property
    def id(self) -> uuid.UUID:
        """The run's id in every target."""
        return run_id(self.execution)


Entity = Pipeline | Task | Dataset | Run
"""What a target receives."""


class Kind(StrEnum):
    """The kinds of entities, in the order in which they are delivered: nothing refers to what was not sent before."""

    PIPELINE = "pipeline"
    DATASET = "dataset"
    TASK = "task"
    RUN = "run"

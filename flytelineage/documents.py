"""Entities as JSON values: one form for the export and for targets that write JSON (docs/export.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flytelineage.model import Dataset, Entity, Pipeline, Run, Task


def to_document(entity: Entity) -> dict[str, Any]:
    """One entity as JSON values; a key without a value is null or an empty list, never missing."""
    if isinstance(entity, Pipeline):
        return {
            "name": entity.name,
            "project": entity.project,
            "domain": entity.domain,
            "workflow": entity.workflow,
            "naming_rule": entity.naming_rule.value,
            "description": entity.description,
            "owners": list(entity.owners),
            "tags": list(entity.tags),
            "url": entity.url,
            "metadata": None if entity.metadata is None else dict(entity.metadata),
            "tasks": list(entity.tasks),
        }
    if isinstance(entity, Task):
        return {
            "pipeline": entity.pipeline,
            "name": entity.name,
            "flyte_task": entity.flyte_task,
            "version": entity.version,
            "type": entity.type,
            "inputs": list(entity.inputs),
            "outputs": list(entity.outputs),
            "upstream": list(entity.upstream),
            "inferred_upstream": list(entity.inferred_upstream),
            "metadata": None if entity.metadata is None else dict(entity.metadata),
        }
    if isinstance(entity, Dataset):
        return {
            "name": entity.name,
            "platform": entity.platform,
            "pipeline": entity.pipeline,
            "task": entity.task,
            "variable": entity.variable,
            "format": entity.format,
            "uris": list(entity.uris),
            "fields": [{"name": f.name, "type": f.type, "nullable": f.nullable} for f in entity.fields],
            "schema_source": entity.schema_source,
            "rows": entity.rows,
            "bytes": entity.bytes,
            "upstreams": list(entity.upstreams),
        }
    return _run_document(entity)


def _run_document(run: Run) -> dict[str, Any]:
    return {
        "execution": str(run.execution),
        "pipeline": run.pipeline,
        "phase": run.phase,
        "started_at": _iso(run.started_at),
        "ended_at": _iso(run.ended_at),
        "parent": run.parent,
        "tasks": [
            {
                "task": task.task,
                "node_id": task.node_id,
                "attempt": task.attempt,
                "index": task.index,
                "phase": task.phase,
                "started_at": _iso(task.started_at),
                "ended_at": _iso(task.ended_at),
                "cached": task.cached,
                "source_execution": task.source_execution,
                "inputs": [{"variable": i.variable, "dataset": i.dataset, "uri": i.uri} for i in task.inputs],
                "outputs": [
                    {"variable": o.variable, "dataset": o.dataset, "uri": o.uri, "handed_on": o.handed_on}
                    for o in task.outputs
                ],
            }
            for task in run.tasks
        ],
    }


def _iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with microseconds and Z."""
    return None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

"""The catalog as one JSON document, ``flytelineage export``.

Its format is a promise: a change of it is a change of its ``version``. docs/export.md describes it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from flytelineage.catalog.reader import CatalogReader, TaskId
from flytelineage.documents import to_document
from flytelineage.errors import ConfigurationError
from flytelineage.inbox.sql import Inbox
from flytelineage.model import Dataset, Pipeline, Run, Task

VERSION = 1


class NotFoundError(ConfigurationError):
    """What was asked for is not in the catalog; the message names the nearest that is."""


def export_document(inbox: Inbox, executions: Sequence[str] = (), pipelines: Sequence[str] = ()) -> dict[str, Any]:
    """The catalog, or the part of it that some executions or pipelines touch.

    Args:
        inbox: open.
        executions: as ``project/domain/name``; with ``pipelines``, what either names.
        pipelines: by name.

    Returns:
        The document, of JSON values; sorted, and the same for the same catalog.

    Raises:
        NotFoundError: there is no such execution or pipeline.
    """
    with inbox.database.snapshot() as connection:
        reader = CatalogReader(connection)
        if executions or pipelines:
            return _narrowed(reader, executions, pipelines)
        ids = reader.pipeline_ids()
        tasks = [task for pipeline in ids for task in reader.task_ids(pipeline)]
        datasets = [reader.dataset(dataset) for task in tasks for dataset in reader.dataset_ids(task)]
        datasets += [reader.place(place) for place in reader.place_ids()]
        return _document(
            (reader.pipeline(pipeline) for pipeline in ids),
            (reader.task(task) for task in tasks),
            [*datasets, *reader.unresolved()],
            reader.runs(reader.run_ids()),
        )


def _narrowed(reader: CatalogReader, executions: Sequence[str], pipelines: Sequence[str]) -> dict[str, Any]:
    """What some executions ran, or some pipelines hold, and every dataset that it reads or writes."""
    by_name: dict[str, set[int]] = {}  # instances and orgs may have pipelines of one name
    for row in reader.pipeline_ids():
        entity = reader.pipeline(row)
        if entity is not None:
            by_name.setdefault(entity.name, set()).add(row)
    _check("pipeline", pipelines, by_name)
    chosen = {row for name in pipelines for row in by_name[name]}
    tasks: set[TaskId] = {task for pipeline in chosen for task in reader.task_ids(pipeline)}
    runs = {run.execution: run for run in reader.runs(reader.run_ids(chosen))}
    if executions:
        known = list(reader.runs(reader.run_ids()))
        _check("execution", executions, {str(run.execution) for run in known})
        for run in known:
            if str(run.execution) not in executions:
                continue
            runs[run.execution] = run
            ran = {task.task for task in run.tasks}
            tasks.update(t for p in by_name[run.pipeline] for t in reader.task_ids(p) if reader.task_name(t) in ran)
        chosen |= {row for run in runs.values() for row in by_name[run.pipeline]}
    entities = [task for task in map(reader.task, tasks) if task is not None]
    touched = {name for task in entities for name in (*task.inputs, *task.outputs)}
    for run in runs.values():
        for ran_task in run.tasks:
            touched.update(item.dataset for item in ran_task.inputs)
            touched.update(item.dataset for item in ran_task.outputs)
    own = {dataset for task in tasks for dataset in reader.dataset_ids(task)}
    datasets: list[Dataset | None] = [reader.dataset(dataset) for dataset in own]
    for pipeline in reader.pipeline_ids():
        for task_id in reader.task_ids(pipeline):
            datasets.extend(
                reader.dataset(d)
                for d in reader.dataset_ids(task_id)
                if d not in own and reader.dataset_name(d) in touched
            )
    places = [reader.place(place) for place in reader.place_ids()]
    datasets.extend(place for place in places if place is not None and place.name in touched)
    datasets.extend(reader.unresolved(tasks))
    return _document((reader.pipeline(p) for p in chosen), entities, datasets, runs.values())


def _check(kind: str, wanted: Sequence[str], known: Iterable[str]) -> None:
    names = sorted(known)
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.3)
            hint = f"did you mean {near[0]!r}?" if near else "`flytelineage show` lists what there is."
            if not names:
                hint = "it holds none yet."
            msg = f"There is no {kind} {name!r} in the catalog: {hint}"
            raise NotFoundError(msg)


def _document(
    pipelines: Iterable[Pipeline | None],
    tasks: Iterable[Task | None],
    datasets: Iterable[Dataset | None],
    runs: Iterable[Run],
) -> dict[str, Any]:
    def key_of(value: dict[str, Any], *names: str) -> tuple[list[str], str]:
        # Instances and orgs may have the same names: then the content decides, and not who came first.
        return [value[name] for name in names], json.dumps(value, sort_keys=True)

    return {
        "version": VERSION,
        "pipelines": sorted((to_document(p) for p in pipelines if p), key=lambda v: key_of(v, "name")),
        "tasks": sorted((to_document(t) for t in tasks if t), key=lambda v: key_of(v, "pipeline", "name")),
        "datasets": sorted((to_document(d) for d in datasets if d), key=lambda v: key_of(v, "platform", "name")),
        "runs": sorted((to_document(r) for r in runs), key=lambda v: key_of(v, "execution")),
    }

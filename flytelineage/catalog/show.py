"""The catalog for a person: trees in the terminal, ``flytelineage show``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flytelineage.catalog.export import NotFoundError
from flytelineage.catalog.reader import CatalogReader
from flytelineage.inbox.sql import Inbox
from flytelineage.model import UNRESOLVED, Dataset, Pipeline, Run, Task

_RUNS_SHOWN = 10


@dataclass(slots=True)
class _Catalog:
    """Everything that is shown or suggested."""

    pipelines: list[Pipeline]
    tasks: list[Task]
    datasets: list[Dataset]
    runs: list[Run]


def render(inbox: Inbox, name: str | None) -> RenderableType:
    """Draw the catalog, or one pipeline or dataset.

    Args:
        inbox: open.
        name: of a pipeline or a dataset, whole, or an end of it that fits one alone; None: everything.

    Returns:
        Something that rich prints.

    Raises:
        NotFoundError: nothing, or several things, have this name.
    """
    with inbox.database.snapshot() as connection:
        catalog = _load(CatalogReader(connection))
    if name is None:
        return _overview(catalog)
    found = _find(catalog, name)
    return _pipeline(catalog, found) if isinstance(found, Pipeline) else _dataset(catalog, found)


def _load(reader: CatalogReader) -> _Catalog:
    ids = reader.pipeline_ids()
    tasks = [task for pipeline in ids for task in reader.task_ids(pipeline)]
    datasets = [reader.dataset(dataset) for task in tasks for dataset in reader.dataset_ids(task)]
    datasets += [reader.place(place) for place in reader.place_ids()]
    return _Catalog(
        sorted((p for p in map(reader.pipeline, ids) if p), key=lambda p: p.name),
        sorted((t for t in map(reader.task, tasks) if t), key=lambda t: t.name),
        sorted((d for d in [*datasets, *reader.unresolved()] if d), key=lambda d: d.name),
        sorted(reader.runs(reader.run_ids()), key=lambda r: (str(r.started_at), str(r.execution)), reverse=True),
    )


def _find(catalog: _Catalog, name: str) -> Pipeline | Dataset:
    everything: Sequence[Pipeline | Dataset] = [*catalog.pipelines, *catalog.datasets]
    exact = [item for item in everything if item.name == name]
    ends = exact or [item for item in everything if item.name.endswith(("." + name, "/" + name))]
    if len(ends) == 1:
        return ends[0]
    if ends:
        several = ", ".join(item.name for item in ends[:4])
        msg = f"{name!r} fits {len(ends)} pipelines and datasets: write one of {several} whole."
        raise NotFoundError(msg)
    names = [item.name for item in everything]
    near = difflib.get_close_matches(name, names, 1, 0.3) or [n for n in names if name in n][:1]
    hint = f"did you mean {near[0]}?" if near else "`flytelineage show` lists what there is."
    msg = f"The catalog holds no pipeline or dataset {name!r}: {hint}"
    raise NotFoundError(msg)


def _overview(catalog: _Catalog) -> RenderableType:
    if not catalog.pipelines:
        return Text("The catalog is empty: no successful execution has been derived yet.")
    return Group(*(_pipeline(catalog, pipeline, runs=1) for pipeline in catalog.pipelines))


def _pipeline(catalog: _Catalog, pipeline: Pipeline, runs: int = _RUNS_SHOWN) -> Tree:
    tree = Tree(_text((pipeline.name, "bold"), *((f" {tag}", "dim") for tag in pipeline.tags)))
    own = [task for task in catalog.tasks if task.pipeline == pipeline.name]
    for task in _in_order(own):
        branch = tree.add(_text((task.name, "cyan"), (f" {task.version}" if task.version else "", "dim")))
        for name in task.inputs:
            branch.add(_text(("reads  ", "dim"), (_shorten(name, pipeline), ""), _platform(catalog, name)))
        for name in task.outputs:
            branch.add(_text(("writes ", "dim"), (_shorten(name, pipeline), "green"), _platform(catalog, name)))
        for name in task.inferred_upstream:
            branch.add(_text(("after  ", "dim"), (name, ""), (" (inferred)", "yellow")))
    shown = [run for run in catalog.runs if run.pipeline == pipeline.name]
    for run in shown[:runs]:
        tree.add(_text((f"run {run.execution}", "magenta"), (f" {run.phase} {_when(run)}", "dim")))
    if len(shown) > runs:
        tree.add(_text((f"and {len(shown) - runs} earlier runs", "dim")))
    return tree


def _dataset(catalog: _Catalog, dataset: Dataset) -> RenderableType:
    tree = Tree(_text((dataset.name, "bold green"), (f" {dataset.platform} {dataset.format or ''}".rstrip(), "dim")))
    for uri in dataset.uris[:3]:
        tree.add(_text((uri, "dim")))
    writers = [task for task in catalog.tasks if dataset.name in task.outputs]
    readers = [task for task in catalog.tasks if dataset.name in task.inputs]
    for word, tasks in (("written by ", writers), ("read by    ", readers)):
        for task in tasks:
            tree.add(_text((word, "dim"), (task.name, "cyan"), (f" of {task.pipeline}", "dim")))
    if dataset.upstreams:
        _walk(tree.add(_text(("made from", "dim"))), dataset.name, {d.name: d.upstreams for d in catalog.datasets})
    downstream: dict[str, tuple[str, ...]] = {}
    for other in catalog.datasets:
        for name in other.upstreams:
            downstream[name] = (*downstream.get(name, ()), other.name)
    if dataset.name in downstream:
        _walk(tree.add(_text(("goes into", "dim"))), dataset.name, downstream)
    return Group(tree, _schema(dataset)) if dataset.fields else tree


def _walk(tree: Tree, name: str, edges: dict[str, tuple[str, ...]]) -> None:
    """Draw what is reachable, each dataset once: the graph may have diamonds and circles."""
    seen = {name}
    pending = [(tree, name)]
    while pending:
        branch, current = pending.pop(0)
        for following in edges.get(current, ()):
            known = following in seen
            child = branch.add(
                _text((following, "green"), (" (above)" if known and edges.get(following) else "", "dim"))
            )
            if not known:
                seen.add(following)
                pending.append((child, following))


def _schema(dataset: Dataset) -> Table:
    size = [f"{dataset.rows:,} rows" if dataset.rows is not None else ""]
    size.append(f"{dataset.bytes:,} bytes" if dataset.bytes is not None else "")
    caption = ", ".join(part for part in size if part)
    table = Table("column", "type", "", caption=caption or None, caption_justify="left")
    for column in dataset.fields:
        table.add_row(_text((column.name, "")), _text((column.type, "cyan")), "" if column.nullable else "not null")
    return table


def _in_order(tasks: Iterable[Task]) -> list[Task]:
    """Upstream first, then by name."""
    pending = {task.name: set(task.upstream) | set(task.inferred_upstream) for task in tasks}
    by_name = {task.name: task for task in tasks}
    order = []
    while pending:
        ready = sorted(name for name, before in pending.items() if not before & pending.keys()) or [min(pending)]
        for name in ready:
            order.append(by_name[name])
            del pending[name]
    return order


def _shorten(name: str, pipeline: Pipeline) -> str:
    return name.removeprefix(pipeline.name + ".")


def _platform(catalog: _Catalog, name: str) -> tuple[str, str]:
    dataset = next((d for d in catalog.datasets if d.name == name), None)
    if dataset is None or dataset.pipeline is not None:
        return "", ""
    return f" {dataset.platform}", "yellow" if dataset.platform == UNRESOLVED else "dim"


def _when(run: Run) -> str:
    if run.started_at is None:
        return ""
    text = f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"
    return text if run.ended_at is None else f"{text}, {(run.ended_at - run.started_at).total_seconds():.0f} s"


def _text(*parts: tuple[str, str]) -> Text:
    """Styled text; names come from events, so nothing in them is markup and no control character gets through."""
    text = Text()
    for content, style in parts:
        text.append("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in content), style)
    return text

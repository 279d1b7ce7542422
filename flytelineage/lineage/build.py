"""A node tree and its literal maps to lineage: who wrote and who read what (DESIGN.md 4).

Pure. Which objects must be read is asked of :func:`wanted_literals` and :func:`wanted_schemas`;
:mod:`flytelineage.lineage.reading` reads them, so that deciding is tested on recorded trees without any storage.

An edge is drawn only when something proves it: a writer's name in clear inside the URI, or literals that carry the
URI. What follows from absence ("its inputs do not hold this URI") needs known inputs; what follows from there being no
other writer needs a complete tree (DESIGN.md 3.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from flytelineage.lineage.fold import Node, Timeline, Tree
from flytelineage.lineage.literals import DataRef
from flytelineage.lineage.naming import (
    RunScope,
    module_of,
    name_workflow,
    natural_key,
    placed,
    run_scope,
    task_name,
)
from flytelineage.lineage.types import (
    DatasetLineage,
    Foreign,
    Input,
    Lineage,
    Made,
    Output,
    Placed,
    Ref,
    TaskKey,
    TaskLineage,
    TaskRunLineage,
)
from flytelineage.model import ExecutionId, Field

_ATTEMPT_IN_URI: Final = re.compile(r"/(\d+)/outputs\.pb$")


class NodeData(NamedTuple):
    """The data locations in a node's literals; None: not known (never "none").

    ``hidden``: the inputs may hold more than is seen in them, so that nothing follows from what is not. The URIs are
    those of the literal maps that were read.
    """

    inputs: tuple[DataRef, ...] | None
    outputs: tuple[DataRef, ...] | None
    hidden: bool = False
    input_uri: str = ""
    output_uri: str = ""


class WantedLiterals(NamedTuple):
    """Literal maps of one node that must be read; empty: inline, or nowhere."""

    node_id: str
    input_uri: str
    output_uri: str


def tasks_of(tree: Tree) -> list[Node]:
    """The nodes that run code, by the natural order of their spec paths."""
    nodes = (node for node in tree.nodes.values() if node.runs_code)
    return sorted(nodes, key=lambda node: (natural_key(node.path), node.id))


def wanted_literals(tree: Tree) -> list[WantedLiterals]:
    """Which literal maps :func:`build` needs, one entry per node that runs code."""
    return [
        WantedLiterals(
            node.id,
            node.input_uri if node.inputs is None else "",
            node.output_uri if node.done and node.outputs is None else "",
        )
        for node in tasks_of(tree)
    ]


class WantedSchema(NamedTuple):
    """A dataset whose schema must be read: the first of its locations, in the literal's format."""

    ref: Made | Placed
    uri: str
    format: str


def wanted_schemas(lineage: Lineage) -> list[WantedSchema]:
    """Which datasets this execution wrote, or read outside of any run, have locations to read a schema from."""
    return [
        WantedSchema(dataset.ref, dataset.uris[0], dataset.format)
        for dataset in lineage.datasets
        if dataset.uris and dataset.fields is None
    ]


class FoundSchema(NamedTuple):
    """What a data file says of itself; None is unknown. ``source`` is DESIGN.md's ``schema_source``."""

    fields: tuple[Field, ...] | None
    source: str | None
    rows: int | None
    bytes: int | None


def with_schemas(lineage: Lineage, found: Mapping[Made | Placed, FoundSchema]) -> Lineage:
    """The lineage with what was read of its datasets."""
    datasets = []
    for dataset in lineage.datasets:
        facts = found.get(dataset.ref)
        if facts is not None:
            # Rows and bytes are those of one location: of a dataset with several they are not the dataset's.
            alone = len(dataset.uris) == 1
            dataset = dataset._replace(
                fields=facts.fields,
                schema_source=facts.source,
                rows=facts.rows if alone else None,
                bytes=facts.bytes if alone else None,
            )
        datasets.append(dataset)
    return lineage._replace(datasets=tuple(datasets))


def build(execution: ExecutionId, tree: Tree, data: Mapping[str, NodeData]) -> Lineage | None:
    """Decide what a successful execution did.

    Args:
        execution: whose tree it is.
        tree: as :func:`~flytelineage.lineage.fold.fold` made it; it succeeded.
        data: by unique node id, what is known of the literals of the nodes that run code.

    Returns:
        The lineage, without schemas; None when the execution ran no task, so that nothing names its pipeline.
    """
    nodes = tasks_of(tree)
    name = name_workflow(tree.launch_plans, ((node.path, node.task_name) for node in nodes))
    if name is None:
        return None
    workflow, rule = name
    decider = _Decider(execution, tree, nodes, data)
    decider.decide()
    return Lineage(
        execution=execution,
        phase="SUCCEEDED",
        phase_inferred=tree.inferred,
        started_at=tree.time.started_at,
        ended_at=tree.time.ended_at,
        parent=None,
        workflow=workflow,
        module=module_of(workflow) if rule is not rule.MODULE else workflow,
        naming_rule=rule,
        tags=tuple(sorted(f"{key}:{value}" for key, value in tree.labels.items())),
        owners=tuple(sorted(tree.principals)),
        tasks=tuple(decider.tasks()),
        datasets=tuple(decider.datasets()),
    )


@dataclass(slots=True)
class _Write:
    """A location that a task of this execution returned and did not hand on; borrowed: its maker wrote it before."""

    node: Node
    ref: Ref
    borrowed: bool


@dataclass(slots=True)
class _Facts:
    """What this execution tells of one dataset."""

    wrote: bool = False
    format: str = ""
    uris: set[str] = field(default_factory=set)


class _Decider:
    """One execution's decision: outputs first, since inputs resolve to them."""

    def __init__(self, execution: ExecutionId, tree: Tree, nodes: Iterable[Node], data: Mapping[str, NodeData]) -> None:
        self._execution = execution.name
        self._tree = tree
        self._nodes = list(nodes)
        self._data = data
        self._arrays = {n.id for n in tree.nodes.values() if n.is_array}
        self._children = tuple(n.child_execution for n in tree.nodes.values() if n.child_execution)
        self._keys = {n.id: TaskKey(task_name(n.task_name), n.task_version, n.task_path) for n in self._nodes}
        self._writes: dict[str, list[_Write]] = {}
        self._outputs: dict[str, list[Output]] = {n.id: [] for n in self._nodes}
        self._inputs: dict[str, list[Input]] = {n.id: [] for n in self._nodes}
        self._upstream: dict[TaskKey, set[TaskKey]] = {key: set() for key in self._keys.values()}
        self._facts: dict[Made | Placed, _Facts] = {}
        self._scopes: dict[str, RunScope | None] = {}
        # A place's only writer is known as such only when no other can be missing.
        self._all_outputs_known = tree.complete and all(
            self._known(n.id).outputs is not None for n in self._nodes if n.done
        )
        self._doubtful: set[str] = set()
        """Places that a task returned of which its inputs do not tell whether it wrote them."""

    def decide(self) -> None:
        others: list[tuple[Node, DataRef, bool]] = []
        for node in self._nodes:
            if node.done:
                others.extend((node, ref, handed_on) for ref, handed_on in self._decide_outputs(node))
        for node, item, handed_on in others:
            ref = self._resolve(node, item)
            if ref is not None:
                self._outputs[node.id].append(Output(item.variable, ref, item.uri, handed_on))
        for node in self._nodes:
            for item in self._known(node.id).inputs or ():
                ref = self._resolve(node, item, reads=True)
                if ref is not None:
                    self._inputs[node.id].append(Input(item.variable, ref, item.uri))
                    if isinstance(ref, Placed):
                        self._note(ref, item, wrote=False)

    def _known(self, node_id: str) -> NodeData:
        return self._data.get(node_id, _UNKNOWN)

    def _scope(self, uri: str) -> RunScope | None:
        """Who a URI says wrote it; each is asked for by its writer and by its readers."""
        if uri not in self._scopes:
            self._scopes[uri] = run_scope(uri, self._execution, self._tree.nodes, self._arrays, self._children)
        return self._scopes[uri]

    def _decide_outputs(self, node: Node) -> Iterator[tuple[DataRef, bool]]:
        """File what the node wrote; yield what somebody else here did, and whether the node handed it on."""
        known = self._known(node.id)
        inputs = None if known.inputs is None else {item.uri for item in known.inputs}
        given: set[str] = inputs or set()
        borrowed = node.cached or node.phase == "RECOVERED"
        for item in known.outputs or ():
            made = Made(self._keys[node.id], item.variable)
            scope = self._scope(item.uri)
            if scope is not None and scope.node:
                if scope.node == node.id:
                    self._write(node, item, made, borrowed=borrowed)
                else:
                    # A hit on what another node of the same task made here is no hand-over.
                    maker = self._keys.get(scope.node)
                    same = borrowed and item.uri not in given and maker is not None and maker.task == made.key.task
                    yield item, not same
            elif scope is not None and scope.named and scope.ours:
                continue  # a node of this execution that no event told of: kept in the literal, not shown
            elif item.uri in given or node.passes_through:
                yield item, True
            elif scope is not None and borrowed:
                self._write(node, item, Foreign(item.uri, made), borrowed=True)
            elif scope is not None and scope.named:
                yield item, True  # another execution's data that came by other ways than the inputs
            elif inputs is not None and not known.hidden:
                self._write(node, item, made if scope is not None else placed(item.uri), borrowed=borrowed)
            else:
                self._doubtful.add(item.uri)

    def _write(self, node: Node, item: DataRef, ref: Ref, *, borrowed: bool) -> None:
        """File a write. What is borrowed was put there by its maker, and no facts are taken from it."""
        self._outputs[node.id].append(Output(item.variable, ref, item.uri, handed_on=False))
        self._writes.setdefault(item.uri, []).append(_Write(node, ref, borrowed))
        if not borrowed and not isinstance(ref, Foreign):
            self._note(ref, item, wrote=True)

    def _note(self, ref: Made | Placed, item: DataRef, *, wrote: bool) -> None:
        facts = self._facts.setdefault(ref, _Facts())
        if wrote and not facts.wrote:
            facts.wrote, facts.uris = True, set()
        if wrote or not facts.wrote:
            facts.uris.add(item.uri)
            facts.format = facts.format or item.format

    def _resolve(self, node: Node, item: DataRef, *, reads: bool = False) -> Ref | None:
        """The dataset at a URI that a node was given; None when it must not be shown."""
        writes = self._written_at(item.uri)
        scope = self._scope(item.uri)
        if scope is None:
            place = placed(item.uri)
            if writes:
                place = next((w.ref for w in writes if isinstance(w.ref, Placed)), place)
                if reads:
                    self._prove_upstream(node, self._last_write(node, item.uri, writes))
            return place
        if scope.ours and not scope.named:
            # A path that user code made of the execution's name: a place as long as the run lives.
            last = self._last_write(node, item.uri, writes)
            self._prove_upstream(node, last if reads else None)
            return None if last is None else last.ref
        if writes:
            for write in writes if reads else ():
                self._prove_upstream(node, write)
            return writes[0].ref
        if scope.ours or not (scope.named or self._all_writers_known(item.uri)):
            return None
        return Foreign(item.uri, None)

    def _written_at(self, uri: str) -> list[_Write]:
        """The writes at the longest whole-segment prefix; never a bucket's root."""
        while uri.count("/") > 2:
            writes = self._writes.get(uri)
            if writes is not None:
                return writes
            uri = uri.rpartition("/")[0]
        return []

    def _all_writers_known(self, uri: str) -> bool:
        """Whether no task can have written at a place, in it or around it, but those that are known to have."""
        return self._all_outputs_known and not any(
            uri == other or uri.startswith(other + "/") or other.startswith(uri + "/") for other in self._doubtful
        )

    def _last_write(self, reader: Node, uri: str, writes: Iterable[_Write]) -> _Write | None:
        """Of the writes to a place the one whose state was read, when times prove it.

        Only node events' own times count: a task event's stand a moment before, and one lost event must not turn an
        overlap into an order.
        """
        if not self._all_writers_known(uri):
            return None
        start, end = reader.time.proved_start, reader.time.ended_at
        before = []
        for write in writes:
            time = write.node.time
            if write.node is reader or write.borrowed or (end and time.proved_start >= end):
                continue
            if not (start and time.proved_start and time.ended_at) or time.ended_at > start:
                return None
            before.append(write)
        before.sort(key=lambda write: write.node.time.ended_at)
        for earlier, later in pairwise(before):
            if later.node.time.proved_start < earlier.node.time.ended_at:
                return None
        return before[-1] if before else None

    def _prove_upstream(self, reader: Node, write: _Write | None) -> None:
        if write is not None and self._keys[write.node.id] != self._keys[reader.id]:
            self._upstream[self._keys[reader.id]].add(self._keys[write.node.id])

    def tasks(self) -> Iterator[TaskLineage]:
        by_key: dict[TaskKey, list[Node]] = {}
        for node in self._nodes:
            by_key.setdefault(self._keys[node.id], []).append(node)
        for key, nodes in by_key.items():
            types = {a.task_type for n in nodes for a in n.attempts.values() if a.task_type}
            yield TaskLineage(
                key=key,
                flyte_task=nodes[0].task_name,
                type=max(types, default=""),
                runs=tuple(run for node in nodes for run in self._runs(node)),
                upstream=tuple(sorted(self._upstream[key])),
                inferred=(),
            )

    def _runs(self, node: Node) -> list[TaskRunLineage]:
        """A task run for each attempt that is known of, the last of them with what the node returned."""
        inputs = tuple(self._inputs[node.id])
        numbers = set(node.attempts)
        match = _ATTEMPT_IN_URI.search(node.output_uri)
        if match is not None and len(match[1]) < 6:
            numbers.add(int(match[1]))
        first, last = (min(numbers), max(numbers)) if numbers else (0, 0)
        runs = []
        for number in sorted(numbers) or [0]:
            attempt = node.attempts.get(number)
            time = _NEVER if attempt is None else attempt.time
            final = number == last
            runs.append(
                TaskRunLineage(
                    node.id,
                    node.path,
                    number,
                    None,
                    (node.phase if final else "") or time.phase or node.phase,
                    time.running_at or (node.time.started_at if number == first else time.first_at),
                    time.ended_at or (node.time.ended_at if final else 0),
                    node.cached,
                    (node.source_execution or None) if node.cached else None,
                    inputs,
                    tuple(self._outputs[node.id]) if final else (),
                )
            )
        return runs

    def datasets(self) -> Iterator[DatasetLineage]:
        for ref, facts in self._facts.items():
            yield DatasetLineage(ref, facts.wrote, facts.format, tuple(sorted(facts.uris)))


_UNKNOWN: Final = NodeData(None, None)
_NEVER: Final = Timeline()

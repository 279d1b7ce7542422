"""The set of an execution's events to its node tree.

Pure, and a join over a lattice: any order, any duplicate and any missing intermediate event give the same tree, or a
poorer one. Phases only rise; contradicting terminal phases have a fixed rank in which success is the highest, so that
a missing event can take lineage away and never add any (DESIGN.md 3.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from flyteidl.core.literals_pb2 import LiteralMap

from flytelineage.events import Facts, NodeFacts, TaskFacts, WorkflowFacts

_WORKFLOW_RANK: Final = {
    phase: rank
    for rank, phase in enumerate(
        ("QUEUED", "RUNNING", "SUCCEEDING", "FAILING", "ABORTING", "ABORTED", "TIMED_OUT", "FAILED", "SUCCEEDED"), 1
    )
}
_NODE_RANK: Final = {
    phase: rank
    for rank, phase in enumerate(
        (
            "QUEUED",
            "RUNNING",
            "DYNAMIC_RUNNING",
            "FAILING",
            "SKIPPED",
            "ABORTED",
            "TIMED_OUT",
            "FAILED",
            "RECOVERED",
            "SUCCEEDED",
        ),
        1,
    )
}
_TASK_RANK: Final = {
    phase: rank
    for rank, phase in enumerate(
        (
            "QUEUED",
            "WAITING_FOR_RESOURCES",
            "INITIALIZING",
            "RUNNING",
            "ABORTED",
            "RETRYABLE_FAILED",
            "FAILED",
            "SUCCEEDED",
        ),
        1,
    )
}
_TERMINAL: Final = {
    WorkflowFacts: frozenset({"ABORTED", "TIMED_OUT", "FAILED", "SUCCEEDED"}),
    NodeFacts: frozenset({"SKIPPED", "ABORTED", "TIMED_OUT", "FAILED", "RECOVERED", "SUCCEEDED"}),
    TaskFacts: frozenset({"ABORTED", "RETRYABLE_FAILED", "FAILED", "SUCCEEDED"}),
}
_DONE: Final = frozenset({"SUCCEEDED", "RECOVERED"})
_MAX_DEPTH: Final = 64
"""Deeper parents than any workflow has: events are untrusted, and two may name each other as parents."""


@dataclass(slots=True)
class Timeline:
    """Phase and times of something that ran. Times are nanoseconds since the epoch, 0 while unknown."""

    phase: str = ""
    rank: int = 0
    first_at: int = 0
    queued_at: int = 0
    running_at: int = 0
    ended_at: int = 0

    def join(self, facts: Facts, ranks: Mapping[str, int]) -> None:
        """Take in one event's phase and time."""
        phase, at = facts.phase, facts.at
        rank = ranks.get(phase, 0)
        if at and (not self.first_at or at < self.first_at):
            self.first_at = at
        if phase == "RUNNING":
            if at and (not self.running_at or at < self.running_at):
                self.running_at = at
        elif phase == "QUEUED" and at and (not self.queued_at or at < self.queued_at):
            self.queued_at = at
        if rank > self.rank:
            self.phase, self.rank = phase, rank
            self.ended_at = at if phase in _TERMINAL[type(facts)] else 0
        elif rank == self.rank and at and phase in _TERMINAL[type(facts)] and not 0 < self.ended_at <= at:
            self.ended_at = at

    @property
    def proved_start(self) -> int:
        """RUNNING's time, else QUEUED's, which is earlier: what a lost event makes of it proves less, never more."""
        return self.running_at or self.queued_at

    @property
    def started_at(self) -> int:
        """RUNNING's time, else the first event's."""
        return self.running_at or self.first_at


@dataclass(slots=True)
class Attempt:
    """One task attempt of a node, as its task events tell."""

    number: int
    time: Timeline = field(default_factory=Timeline)
    task_name: str = ""
    task_version: str = ""
    task_type: str = ""
    input_uri: str = ""
    output_uri: str = ""
    inputs: LiteralMap | None = None
    outputs: LiteralMap | None = None


@dataclass(slots=True)
class Node:
    """One node execution.

    ``path`` is the node's spec path (unique ids stand in for spec ids that are not told); ``task_path`` that of its
    Task: the outermost dynamic or map above it, when there is one.
    """

    id: str
    time: Timeline = field(default_factory=Timeline)
    seen: bool = False
    spec_id: str = ""
    parent: str = ""
    retry_group: str = ""
    task_name: str = ""
    task_version: str = ""
    input_uri: str = ""
    output_uri: str = ""
    inputs: LiteralMap | None = None
    outputs: LiteralMap | None = None
    cached: bool = False
    """Its outputs were taken from Flyte's cache."""
    source_execution: str = ""
    child_execution: str = ""
    is_dynamic: bool = False
    is_array: bool = False
    event_version: int = 0
    attempts: dict[int, Attempt] = field(default_factory=dict)
    has_children: bool = False
    phase: str = ""
    path: str = ""
    task_path: str = ""

    @property
    def done(self) -> bool:
        """Whether its outputs exist."""
        return self.phase in _DONE

    @property
    def runs_code(self) -> bool:
        """Whether it is a Task: the others only pass data through."""
        return bool(self.task_name)

    @property
    def passes_through(self) -> bool:
        """Whether its outputs are its children's."""
        return self.is_dynamic or self.has_children


@dataclass(slots=True)
class Tree:
    """An execution's nodes by unique id, and what its workflow events say."""

    time: Timeline = field(default_factory=Timeline)
    nodes: dict[str, Node] = field(default_factory=dict)
    launch_plans: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    principals: set[str] = field(default_factory=set)
    succeeded: bool = False
    inferred: bool = False
    """The success is inferred: SUCCEEDED itself never came, the top-level end-node's did."""
    complete: bool = False
    """Every seen node is terminal, parents included."""


def fold(facts: Iterable[Facts]) -> Tree:
    """Fold the set of an execution's events.

    Args:
        facts: the events in any order, with any duplicates.

    Returns:
        The tree; equal for equal sets.
    """
    tree = Tree()
    nodes = tree.nodes
    for item in facts:
        if isinstance(item, NodeFacts):
            node = nodes.get(item.node_id) or nodes.setdefault(item.node_id, Node(item.node_id))
            _join_node(node, item)
        elif isinstance(item, TaskFacts):
            node = nodes.get(item.node_id) or nodes.setdefault(item.node_id, Node(item.node_id))
            _join_task(node, item)
        else:
            tree.time.join(item, _WORKFLOW_RANK)
        if item.launch_plan:
            tree.launch_plans.add(item.launch_plan)
        if item.labels:
            for key, value in item.labels.items():
                tree.labels[key] = max(value, tree.labels.get(key, ""))
        if item.principal:
            tree.principals.add(item.principal)
    _finish(tree)
    return tree


# Each field is the greatest that any event holds, and an empty text is the least: ABORTED and some FAILED events are
# sparse (flyte-events.md 2.1). Flyte's events of one node do not contradict each other; should some do, the join still
# does not depend on their order.


def _join_node(node: Node, facts: NodeFacts) -> None:
    node.seen = True
    node.time.join(facts, _NODE_RANK)
    if facts.spec_id > node.spec_id:
        node.spec_id = facts.spec_id
    if facts.parent > node.parent:
        node.parent = facts.parent
    if facts.retry_group > node.retry_group:
        node.retry_group = facts.retry_group
    if facts.task_name and (facts.task_name, facts.task_version) > (node.task_name, node.task_version):
        node.task_name, node.task_version = facts.task_name, facts.task_version
    if facts.input_uri > node.input_uri:
        node.input_uri = facts.input_uri
    if facts.output_uri > node.output_uri:
        node.output_uri = facts.output_uri
    if facts.inputs is not None:
        node.inputs = _greatest(node.inputs, facts.inputs)
    if facts.outputs is not None:
        node.outputs = _greatest(node.outputs, facts.outputs)
    if facts.cache_status:
        node.cached |= facts.cache_status == "CACHE_HIT"
        node.source_execution = max(node.source_execution, facts.source_execution)
    if facts.child_execution > node.child_execution:
        node.child_execution = facts.child_execution
    if facts.is_dynamic or facts.phase == "DYNAMIC_RUNNING":
        node.is_dynamic = True
    if facts.is_array:
        node.is_array = True
    if facts.event_version > node.event_version:
        node.event_version = facts.event_version


def _join_task(node: Node, facts: TaskFacts) -> None:
    attempt = node.attempts.get(facts.attempt)
    if attempt is None:
        attempt = node.attempts[facts.attempt] = Attempt(facts.attempt)
    attempt.time.join(facts, _TASK_RANK)
    if (facts.task_name, facts.task_version) > (attempt.task_name, attempt.task_version):
        attempt.task_name, attempt.task_version = facts.task_name, facts.task_version
    if facts.task_type > attempt.task_type:
        attempt.task_type = facts.task_type
    if facts.input_uri > attempt.input_uri:
        attempt.input_uri = facts.input_uri
    if facts.output_uri > attempt.output_uri:
        attempt.output_uri = facts.output_uri
    if facts.outputs is not None:
        attempt.outputs = _greatest(attempt.outputs, facts.outputs)
    if facts.inputs is not None:
        attempt.inputs = _greatest(attempt.inputs, facts.inputs)


def _greatest(one: LiteralMap | None, other: LiteralMap) -> LiteralMap:
    """The longer of two literal maps: an event that holds less of it knows less."""
    if one is None:
        return other
    return max(one, other, key=lambda m: (m.ByteSize(), m.SerializeToString(deterministic=True)))


def _finish(tree: Tree) -> None:
    """Conclude from the whole set: children, phases, paths, success, completeness."""
    nodes = tree.nodes
    missing_parent = False
    for node in nodes.values():
        parent = nodes.get(node.parent) if node.parent else None
        if parent is not None:
            parent.has_children = True
            # Sub-nodes of a map carry an empty input map even at QUEUED: it says nothing (flyte-events.md 0).
            if parent.is_array and node.inputs is not None and not node.inputs.literals:
                node.inputs = None
        elif node.parent:
            missing_parent = True
    end_node = nodes.get("end-node")
    phase = tree.time.phase
    ended_well = phase == "SUCCEEDING" or (
        end_node is not None and not end_node.parent and end_node.time.phase == "SUCCEEDED"
    )
    tree.inferred = ended_well and tree.time.rank <= _WORKFLOW_RANK["SUCCEEDING"]
    tree.succeeded = phase == "SUCCEEDED" or tree.inferred
    complete = not missing_parent
    for node in nodes.values():
        _finish_node(node, tree.succeeded)
        if node.phase not in _TERMINAL[NodeFacts] and not _is_ghost(node, nodes):
            complete = False
        node.path, node.task_path = _paths(node, nodes)
    tree.complete = complete


def _finish_node(node: Node, succeeded: bool) -> None:
    """Fill from the last attempt what the node's own events did not bring."""
    node.phase = node.time.phase
    if not node.attempts:
        return
    last = node.attempts[max(node.attempts)]
    if not node.task_name:
        node.task_name, node.task_version = last.task_name, last.task_version
    if not node.input_uri:
        node.input_uri = last.input_uri
    if node.inputs is None:
        node.inputs = last.inputs
    # A leaf whose last attempt succeeded in a workflow that succeeded has succeeded: its own event was lost.
    if (
        succeeded
        and node.phase not in _TERMINAL[NodeFacts]
        and not node.passes_through
        and last.time.phase == "SUCCEEDED"
    ):
        node.phase = "SUCCEEDED"
    if node.done:
        if not node.output_uri:
            node.output_uri = last.output_uri
        if node.outputs is None:
            node.outputs = last.outputs


def _is_ghost(node: Node, nodes: Mapping[str, Node]) -> bool:
    """The initial synthetic sub-nodes of array event version 1, which never end (flyte-events.md 2.6)."""
    parent = nodes.get(node.parent)
    return node.event_version == 0 and not node.spec_id and parent is not None and parent.is_array


def _paths(node: Node, nodes: Mapping[str, Node]) -> tuple[str, str]:
    chain = [node]
    while (parent_id := chain[-1].parent) and len(chain) < _MAX_DEPTH:
        parent = nodes.get(parent_id)
        if parent is None:
            chain.append(Node(parent_id))
            break
        chain.append(parent)
    chain.reverse()
    parts = [item.spec_id or item.id for item in chain]
    path = "/".join(parts)
    for depth, item in enumerate(chain[:-1], 1):
        if item.is_dynamic or item.is_array:
            return path, "/".join(parts[:depth])
    return path, path

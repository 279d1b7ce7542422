"""Invariants 2 and 5: order and duplicates change nothing; a missing event makes lineage poorer, never wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from flytelineage.events import Facts, NodeFacts, TaskFacts, WorkflowFacts
from flytelineage.lineage.build import NodeData, build
from flytelineage.lineage.fold import fold
from flytelineage.lineage.literals import DataRef
from flytelineage.lineage.types import Lineage, Placed
from tests.support.corpus import cases
from tests.support.events import (
    FLAT_CASES,
    Story,
    edges,
    execution_id,
    lineage_of,
    node,
    raw_uri,
    stories,
    task,
    unhurried,
    workflow,
)

FLAT = stories(FLAT_CASES)
NESTED = stories([case for case in cases() if case not in FLAT_CASES])


def without(facts: Sequence[Facts], number: int) -> list[Facts]:
    return [*facts[:number], *facts[number + 1 :]]


def told(item: Facts) -> str:
    node_id = "" if isinstance(item, WorkflowFacts) else item.node_id
    return f"{type(item).__name__} {node_id} {item.phase}"


# -- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", [*FLAT, *NESTED], ids=str)
def test_dropping_any_one_event_adds_no_edge(story: Story) -> None:
    whole = edges(lineage_of(story.execution, story.facts))
    for number, dropped in enumerate(story.facts):
        added = edges(lineage_of(story.execution, without(story.facts, number))) - whole
        assert not added, f"without {told(dropped)}"


def is_repeated(item: Facts, others: Iterable[Facts]) -> bool:
    """QUEUED and RUNNING (unless inline inputs are in it alone), and a task event beside its node's."""
    if isinstance(item, WorkflowFacts):
        return item.phase in ("QUEUED", "RUNNING", "SUCCEEDING")
    if isinstance(item, NodeFacts):
        ended = any(
            isinstance(other, NodeFacts) and other.node_id == item.node_id and other.phase == "SUCCEEDED"
            for other in others
        )
        return ended and item.phase in ("QUEUED", "RUNNING") and item.inputs is None
    return any(isinstance(other, NodeFacts) and other.node_id == item.node_id for other in others) and not item.inputs


@pytest.mark.parametrize("story", FLAT, ids=str)
def test_dropping_any_one_event_that_others_repeat_loses_no_edge(story: Story) -> None:
    whole = edges(lineage_of(story.execution, story.facts))
    repeated = 0
    for number, dropped in enumerate(story.facts):
        if is_repeated(dropped, story.facts):
            repeated += 1
            lost = whole - edges(lineage_of(story.execution, without(story.facts, number)))
            assert not lost, f"without {told(dropped)}"
    assert repeated or not whole


@pytest.mark.parametrize("story", FLAT, ids=str)
def test_a_lost_end_of_a_node_is_told_by_its_last_attempt(story: Story) -> None:
    """What it read and wrote, that is; a place's writer among several is proved by nodes' own times."""
    whole = {edge for edge in edges(lineage_of(story.execution, story.facts)) if edge[0] != "upstream"}
    for number, dropped in enumerate(story.facts):
        if (
            isinstance(dropped, NodeFacts)
            and dropped.phase == "SUCCEEDED"
            and any(
                isinstance(item, TaskFacts) and item.node_id == dropped.node_id and item.phase == "SUCCEEDED"
                for item in story.facts
            )
        ):  # fmt: skip
            assert whole <= edges(lineage_of(story.execution, without(story.facts, number))), told(dropped)


@pytest.mark.parametrize("story", FLAT, ids=str)
def test_a_lost_success_is_told_by_the_end_node_or_by_succeeding(story: Story) -> None:
    whole = edges(lineage_of(story.execution, story.facts))
    kept = [item for item in story.facts if not (isinstance(item, WorkflowFacts) and item.phase == "SUCCEEDED")]
    assert edges(lineage_of(story.execution, kept)) == whole
    kept = [item for item in kept if not isinstance(item, WorkflowFacts)]
    assert edges(lineage_of(story.execution, kept)) == whole


@unhurried
@given(st.sampled_from([*FLAT, *NESTED]), st.data())
def test_any_order_and_any_duplicates_give_the_same_lineage(story: Story, data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(story.facts), max_size=8))
    shuffled = data.draw(st.permutations([*story.facts, *again]))
    assert text(lineage_of(story.execution, shuffled)) == text(lineage_of(story.execution, story.facts))


@unhurried
@given(st.sampled_from(FLAT), st.data())
def test_dropping_any_events_adds_no_edge(story: Story, data: st.DataObject) -> None:
    """Several at once, as a publisher that was down does it; the workflow's own name may be another then."""
    kept = data.draw(st.lists(st.sampled_from(range(len(story.facts))), unique=True))
    whole = edges(lineage_of(story.execution, story.facts))
    found = edges(lineage_of(story.execution, [story.facts[number] for number in kept]))
    assert found <= whole


def text(found: Lineage | None) -> str:
    return "" if found is None else found.to_json()


# -- invented --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """One node of an invented execution: literals lie in a bucket, so that any event may be lost without them."""

    number: int
    phase: str
    queued: int
    took: int
    has_running: bool
    has_task: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"n{self.number}"

    def facts(self) -> list[Facts]:
        more: dict[str, Any] = {"task_name": f"m.t{self.number}", "input_uri": f"s3://m/{self.id}/in"}
        ended: dict[str, Any] = {"output_uri": f"s3://m/{self.id}/data/0/outputs.pb"}
        end = self.queued + 1 + self.took
        if self.phase in ("CACHE_HIT", "RECOVERED"):
            hit = self.phase == "CACHE_HIT"
            return [
                node(
                    self.id, "SUCCEEDED" if hit else "RECOVERED", end,
                    cache_status="CACHE_HIT" if hit else "", **more, **ended,
                )
            ]  # fmt: skip
        found: list[Facts] = [node(self.id, "QUEUED", self.queued, **more)]
        if self.has_running:
            found.append(node(self.id, "RUNNING", self.queued + 1, **more))
        if self.has_task:
            found.append(task(self.id, "RUNNING", self.queued + 1, **more))
            found.append(task(self.id, self.phase, end, **more, **(ended if self.phase == "SUCCEEDED" else {})))
        found.append(node(self.id, self.phase, end, **more, **(ended if self.phase == "SUCCEEDED" else {})))
        return found


BOOLEANS = st.booleans()
URIS = (
    "s3://lake/gold",
    "s3://lake/gold/orders",
    "s3://lake/gold/orders/part-0",
    "s3://scratch/run-1/table",
    raw_uri("fhd73hsk4lhsg"),
    raw_uri("older-n0-0"),
    raw_uri("run-1-n0-0"),
    raw_uri("run-1-n1-0"),
    raw_uri("run-1-n1-0") + "/00000",
)


def executions(
    phases: Sequence[str], uris: Sequence[str], has_task: st.SearchStrategy[bool] = BOOLEANS
) -> st.SearchStrategy[list[Ran]]:
    data = st.lists(st.sampled_from(uris), max_size=2, unique=True).map(tuple)
    return (
        st.integers(1, 4)
        .flatmap(
            lambda count: st.tuples(
                *(
                    st.builds(
                        Ran,
                        number=st.just(number),
                        phase=st.sampled_from(phases),
                        queued=st.integers(1, 12),
                        took=st.integers(0, 6),
                        has_running=st.booleans(),
                        has_task=has_task,
                        inputs=data,
                        outputs=data,
                    )
                    for number in range(count)
                )
            ).map(list)
        )
        .filter(is_possible)
    )


def is_possible(nodes: list[Ran]) -> bool:
    """Flyte draws the name of raw data: no two nodes write the same."""
    return all(sum(uri in ran.outputs and uri not in ran.inputs for ran in nodes) < 2 for uri in URIS[4:])


def derive(nodes: Iterable[Ran], facts: Iterable[Facts]) -> Lineage | None:
    tree = fold(facts)
    if not tree.succeeded:
        return None
    data = {
        item.id: NodeData(
            _refs("x", item.inputs) if tree.nodes[item.id].input_uri else None,
            _refs("o", item.outputs) if tree.nodes[item.id].done and tree.nodes[item.id].output_uri else None,
        )
        for item in nodes
        if item.id in tree.nodes
    }
    return build(execution_id("/p/d/run-1"), tree, data)


def _refs(variable: str, uris: Iterable[str]) -> tuple[DataRef, ...]:
    return tuple(DataRef(f"{variable}{number}", uri, "") for number, uri in enumerate(uris))


def check_drops(nodes: list[Ran]) -> None:
    facts = [*(item for ran in nodes for item in ran.facts()), workflow(), node("end-node", at=900, task_name="")]
    whole = edges(derive(nodes, facts))
    for number, dropped in enumerate(facts):
        added = edges(derive(nodes, without(facts, number))) - whole
        if added:
            note(f"without {told(dropped)} at {dropped.at}")
        assert not added


FRESH = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED")


@unhurried
@given(executions(FRESH, URIS[4:]))
def test_dropping_any_one_event_of_an_invented_execution_adds_no_edge_to_run_scoped_data(nodes: list[Ran]) -> None:
    check_drops(nodes)


@unhurried
@given(executions(FRESH, URIS[1:2]))
def test_dropping_any_one_event_of_an_invented_execution_adds_no_edge_to_a_place(nodes: list[Ran]) -> None:
    check_drops(nodes)


@unhurried
@given(executions(FRESH, URIS[:4], st.just(value=True)))
def test_dropping_any_one_event_of_an_invented_execution_adds_no_edge_to_places_inside_places(nodes: list[Ran]) -> None:
    check_drops(nodes)


@unhurried
@given(executions(("SUCCEEDED", "CACHE_HIT", "RECOVERED"), (URIS[1], *URIS[3:])))
def test_dropping_any_one_event_of_an_invented_execution_adds_no_edge_where_nodes_were_borrowed(
    nodes: list[Ran],
) -> None:
    check_drops(nodes)


@unhurried
@given(executions(("SUCCEEDED", "CACHE_HIT", "RECOVERED", "FAILED"), URIS), st.data())
def test_any_order_of_an_invented_execution_gives_the_same_lineage(nodes: list[Ran], data: st.DataObject) -> None:
    facts = [*(item for ran in nodes for item in ran.facts()), workflow()]
    shuffled = data.draw(st.permutations(facts))
    assert text(derive(nodes, shuffled)) == text(derive(nodes, facts))


@unhurried
@given(executions(("SUCCEEDED", "CACHE_HIT", "RECOVERED"), URIS))
def test_nothing_upstream_is_the_task_itself_or_may_have_ended_after_its_reader_began(nodes: list[Ran]) -> None:
    found = derive(nodes, [*(item for ran in nodes for item in ran.facts()), workflow()])
    assert found is not None
    times = {item.key: item.runs[0] for item in found.tasks}
    for item in found.tasks:
        assert item.key not in item.upstream
        placed = {entry.ref for run in item.runs for entry in run.inputs if isinstance(entry.ref, Placed)}
        if placed and len(placed) == len(item.runs[0].inputs):
            for key in item.upstream:
                assert times[key].ended_at <= times[item.key].started_at

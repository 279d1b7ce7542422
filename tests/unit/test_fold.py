"""The set of an execution's events to its node tree: a join, so that order, duplicates and gaps do not matter."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flytelineage.events import Facts
from flytelineage.lineage.fold import Tree, fold
from tests.support.corpus import cases
from tests.support.events import Story, facts_of, node, ran, sparse, stories, task, unhurried, workflow

END = [node("end-node", at=90, task_name=""), workflow("SUCCEEDED", 100)]


def tree(case: str, name: str) -> Tree:
    return fold(facts_of(case, "external")[f"/flytesnacks/development/{name}"])


# -- order and duplicates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", stories(), ids=str)
def test_the_reverse_order_and_every_event_twice_give_the_same_tree(story: Story) -> None:
    expected = fold(story.facts)
    assert fold(reversed(story.facts)) == expected
    assert fold([*story.facts, *story.facts]) == expected


@unhurried
@given(st.sampled_from(stories()), st.data())
def test_any_order_and_any_duplicates_give_the_same_tree(story: Story, data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(story.facts), max_size=10))
    shuffled = data.draw(st.permutations([*story.facts, *again]))
    assert fold(shuffled) == fold(story.facts)


def test_both_publishers_at_once_give_the_tree_of_v2() -> None:
    for case in cases():
        external, cloudevents = facts_of(case, "external"), facts_of(case, "cloudevents")
        for execution, found in external.items():
            both = fold([*found, *cloudevents[execution]])
            assert both == fold([*cloudevents[execution], *found])
            assert {n.id: (n.phase, n.path, n.output_uri, n.task_name, n.cached) for n in both.nodes.values()} == {
                n.id: (n.phase, n.path, n.output_uri, n.task_name, n.cached)
                for n in fold(cloudevents[execution]).nodes.values()
            }


phases = st.sampled_from(
    [
        "QUEUED",
        "RUNNING",
        "DYNAMIC_RUNNING",
        "SKIPPED",
        "ABORTED",
        "TIMED_OUT",
        "FAILED",
        "RECOVERED",
        "SUCCEEDED",
        "99",
    ]
)
times = st.integers(0, 3)
texts = st.sampled_from(["", "a", "b"])
contradictory = st.one_of(
    st.builds(
        node,
        st.sampled_from(["n0", "n1"]),
        phases,
        times,
        spec_id=texts,
        parent=st.sampled_from(["", "n0", "n1", "n2"]),
        retry_group=texts,
        task_name=texts,
        task_version=texts,
        input_uri=texts,
        output_uri=texts,
        cache_status=st.sampled_from(["", "CACHE_HIT", "CACHE_POPULATED"]),
        source_execution=texts,
        child_execution=texts,
        is_array=st.booleans(),
        inputs=st.sampled_from([None, {}, {"x": "s3://b/x"}, {"y": "s3://b/y"}]),
        outputs=st.sampled_from([None, {}, {"x": "s3://b/x"}, {"y": "s3://b/y"}]),
        labels=st.sampled_from([None, {"team": "a"}, {"team": "b"}]),
        launch_plan=texts,
        principal=texts,
    ),
    st.builds(
        task,
        st.sampled_from(["n0", "n1"]),
        st.sampled_from(["QUEUED", "RUNNING", "ABORTED", "RETRYABLE_FAILED", "FAILED", "SUCCEEDED"]),
        times,
        st.integers(0, 1),
        task_name=texts,
        task_version=texts,
        task_type=texts,
        input_uri=texts,
        output_uri=texts,
    ),
    st.builds(
        workflow, st.sampled_from(["RUNNING", "SUCCEEDING", "FAILING", "FAILED", "ABORTED", "SUCCEEDED"]), times,
        labels=st.sampled_from([None, {"team": "a"}, {"team": "b"}]),
    ),
)  # fmt: skip


@unhurried
@given(st.lists(contradictory, max_size=6), st.data())
def test_events_that_contradict_each_other_give_one_tree_in_any_order(found: list[Facts], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(found))
    assert fold(shuffled) == fold(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"spec_id": "n1"}, {"spec_id": "n2"}),
        ({"parent": "n1"}, {"parent": "n2"}),
        ({"retry_group": "0"}, {"retry_group": "1"}),
        ({"task_name": "m.a"}, {"task_name": "m.b"}),
        ({"task_version": "v1"}, {"task_version": "v2"}),
        ({"input_uri": "s3://b/1"}, {"input_uri": "s3://b/2"}),
        ({"output_uri": "s3://b/1"}, {"output_uri": "s3://b/2"}),
        ({"inputs": {"x": "s3://b/1"}}, {"inputs": {"x": "s3://b/2"}}),
        ({"outputs": {"x": "s3://b/1"}}, {"outputs": {"x": "s3://b/2"}}),
        ({"cache_status": "CACHE_HIT"}, {"cache_status": "CACHE_POPULATED"}),
        ({"source_execution": "p/d/1"}, {"source_execution": "p/d/2"}),
        ({"child_execution": "a"}, {"child_execution": "b"}),
        ({"labels": {"team": "a"}}, {"labels": {"team": "b"}}),
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_events_that_contradict_each_other_in_one_field_give_one_tree(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = node("n0", **one), node("n0", **other)
    assert fold([first, second]) == fold([second, first])


def test_task_events_that_contradict_each_other_give_one_tree() -> None:
    for one, other in (
        ({"task_name": "m.a"}, {"task_name": "m.b"}),
        ({"task_type": "a"}, {"task_type": "b"}),
        ({"input_uri": "s3://b/1"}, {"input_uri": "s3://b/2"}),
    ):
        first, second = task("n0", **one), task("n0", **other)  # type: ignore[arg-type]
        assert fold([first, second]) == fold([second, first])


# -- phases ----------------------------------------------------------------------------------------------------------


def test_contradicting_ends_of_a_workflow_have_a_rank() -> None:
    ascending = ["QUEUED", "RUNNING", "SUCCEEDING", "FAILING", "ABORTED", "TIMED_OUT", "FAILED", "SUCCEEDED"]
    for low, high in zip(ascending, ascending[1:], strict=False):
        for order in permutations([workflow(low, 20), workflow(high, 10)]):
            assert fold(order).time.phase == high


def test_contradicting_ends_of_a_node_have_a_rank() -> None:
    ascending = ["QUEUED", "RUNNING", "DYNAMIC_RUNNING", "SKIPPED", "ABORTED", "TIMED_OUT", "FAILED", "RECOVERED"]
    ascending.append("SUCCEEDED")
    for low, high in zip(ascending, ascending[1:], strict=False):
        for order in permutations([node("n0", low, 20), node("n0", high, 10)]):
            assert fold(order).nodes["n0"].phase == high


def test_a_terminal_phase_does_not_go_back_on_a_late_event() -> None:
    for order in permutations([node("n0", "SUCCEEDED", 10), node("n0", "RUNNING", 99), node("n0", "QUEUED", 100)]):
        found = fold(order).nodes["n0"]
        assert (found.phase, found.time.ended_at, found.time.running_at) == ("SUCCEEDED", 10, 99)


def test_an_unknown_phase_is_below_all_others() -> None:
    for order in permutations([node("n0", "99", 50), node("n0", "QUEUED", 10)]):
        assert fold(order).nodes["n0"].phase == "QUEUED"


def test_started_is_runnings_time_else_the_first_events() -> None:
    assert fold([node("n0", "QUEUED", 5), node("n0", "RUNNING", 7), node("n0", at=9)]).nodes["n0"].time.started_at == 7
    assert fold([node("n0", "QUEUED", 5), node("n0", at=9)]).nodes["n0"].time.started_at == 5
    assert fold([workflow("SUCCEEDED", 9)]).time.started_at == 9


def test_ended_is_the_terminal_events_time() -> None:
    assert fold([node("n0", "RUNNING", 7)]).nodes["n0"].time.ended_at == 0
    assert fold([node("n0", "RUNNING", 7), node("n0", at=9)]).nodes["n0"].time.ended_at == 9


def test_an_end_without_time_learns_it_from_a_repetition() -> None:
    for order in permutations([node("n0", at=0), node("n0", at=9)]):
        assert fold(order).nodes["n0"].time.ended_at == 9


# -- merging fields --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["ABORTED", "FAILED"])
def test_a_sparse_terminal_event_takes_nothing_away(phase: str) -> None:
    rich = node(
        "n2-0-n1", "RUNNING", 10, spec_id="n1", parent="n2", retry_group="0", input_uri="s3://b/i",
        inputs={"x": "s3://b/x"},
    )  # fmt: skip
    for order in permutations([rich, sparse("n2-0-n1", phase, 20), node("n2", "RUNNING", 9, task_name="")]):
        found = fold(order).nodes["n2-0-n1"]
        assert (found.phase, found.spec_id, found.parent, found.retry_group) == (phase, "n1", "n2", "0")
        assert (found.task_name, found.task_version, found.input_uri) == ("m.make", "v1", "s3://b/i")
        assert found.inputs is not None
        assert found.path == "n2/n1"


def test_the_recorded_sparse_abort_keeps_its_nodes_name_and_inputs() -> None:
    found = tree("abort", "slow-1")
    aborted = [item for item in found.nodes.values() if item.phase == "ABORTED"]
    assert aborted
    for item in aborted:
        assert item.spec_id
        assert item.task_name
        assert item.input_uri


def test_inputs_at_queued_outlive_the_empty_map_of_a_recovered_or_queued_repetition() -> None:
    found = [node("n0", "QUEUED", 1, inputs={"x": "s3://b/x"}), node("n0", "QUEUED", 2, inputs={}), node("n0", at=3)]
    for order in permutations(found):
        inputs = fold(order).nodes["n0"].inputs
        assert inputs is not None
        assert list(inputs.literals) == ["x"]


def test_launch_plans_labels_and_principals_are_collected() -> None:
    found = fold([
        workflow(launch_plan="m.wf", labels={"team": "a"}, principal="me"),
        node("n0", labels={"tier": "1"}, principal="me"),
    ])  # fmt: skip
    assert found.launch_plans == {"m.wf"}
    assert found.labels == {"team": "a", "tier": "1"}
    assert found.principals == {"me"}


# -- attempts --------------------------------------------------------------------------------------------------------


def test_attempts_are_kept_apart() -> None:
    found = tree("retry", "retry-1").nodes["n1"]
    assert {number: item.time.phase for number, item in found.attempts.items()} == {0: "FAILED", 1: "SUCCEEDED"}
    assert found.attempts[1].output_uri.endswith("/n1/data/1/outputs.pb")


def test_a_leaf_whose_event_was_lost_ended_as_its_last_attempt() -> None:
    events = [
        node("n0", "QUEUED", 1),
        node("n0", "RUNNING", 2),
        task("n0", "FAILED", 3, 0),
        task("n0", "SUCCEEDED", 5, 1, output_uri="s3://b/data/1/outputs.pb"),
    ]
    found = fold([*events, *END])
    assert found.nodes["n0"].phase == "SUCCEEDED"
    assert found.nodes["n0"].output_uri == "s3://b/data/1/outputs.pb"
    assert found.complete


def test_the_last_attempt_decides_and_not_an_earlier_one() -> None:
    events = [node("n0", "RUNNING", 2), task("n0", "SUCCEEDED", 3, 0), task("n0", "RUNNING", 5, 1)]
    found = fold([*events, *END])
    assert found.nodes["n0"].phase == "RUNNING"
    assert not found.complete


def test_an_attempt_proves_nothing_in_a_workflow_that_did_not_succeed() -> None:
    events = [node("n0", "RUNNING", 2), task("n0", "SUCCEEDED", 3, output_uri="s3://b/o")]
    assert fold(events).nodes["n0"].phase == "RUNNING"
    assert fold([*events, workflow("FAILED")]).nodes["n0"].phase == "RUNNING"


def test_an_attempt_does_not_end_a_node_that_has_children() -> None:
    """A dynamic node's task succeeds before its children have run (flyte-events.md 2.4)."""
    events = [node("n0", "RUNNING", 2), task("n0", "SUCCEEDED", 3), *ran("n0-0-n1", 4, 5, spec_id="n1", parent="n0")]
    assert fold([*events, *END]).nodes["n0"].phase == "RUNNING"
    dynamic = [node("n0", "DYNAMIC_RUNNING", 2, is_dynamic=True), task("n0", "SUCCEEDED", 3)]
    assert fold([*dynamic, *END]).nodes["n0"].phase == "DYNAMIC_RUNNING"


def test_a_nodes_own_end_stands_above_its_attempts() -> None:
    events = [node("n0", "FAILED", 5), task("n0", "SUCCEEDED", 3, output_uri="s3://b/o")]
    found = fold([*events, *END]).nodes["n0"]
    assert (found.phase, found.output_uri) == ("FAILED", "")


def test_task_events_alone_make_a_node_with_name_inputs_and_outputs() -> None:
    found = fold([task("n0", "RUNNING", 3, input_uri="s3://b/i"), task("n0", at=4, output_uri="s3://b/o"), *END])
    node_ = found.nodes["n0"]
    assert (node_.task_name, node_.phase, node_.input_uri, node_.output_uri) == (
        "m.make", "SUCCEEDED", "s3://b/i", "s3://b/o",
    )  # fmt: skip


# -- parents and paths -----------------------------------------------------------------------------------------------


def test_a_path_is_made_of_spec_ids() -> None:
    found = tree("sub-workflow", "sub-1")
    assert {item.path for item in found.nodes.values()} >= {"n0", "n0/n0", "n0/n1", "n1", "n0/start-node"}


def test_hashed_ids_are_told_by_their_spec_ids() -> None:
    paths = {item.id: item.path for name in ("branch-1", "branch-2") for item in tree("branch", name).nodes.values()}
    hashed = [path for node_id, path in paths.items() if len(node_id) == 8 and node_id.startswith("f")]
    assert hashed
    for path in hashed:
        assert path.startswith("n1/")


def test_below_a_dynamic_node_the_tasks_place_is_the_outermost_dynamic() -> None:
    events = [
        *ran("n0", is_dynamic=True),
        *ran("n0-0-dn0", spec_id="dn0", parent="n0", is_dynamic=True, task_name="m.inner"),
        *ran("n0-0-dn0-0-dn1", spec_id="dn1", parent="n0-0-dn0"),
        *ran("n0-0-dn2", spec_id="dn2", parent="n0", task_name=""),
        *ran("n0-0-dn2-0-n3", spec_id="n3", parent="n0-0-dn2"),
        *ran("n1", is_array=True, task_name=""),
        *ran("n1-0-n5", spec_id="n5", parent="n1"),
        *ran("n2", task_name=""),
        *ran("n2-0-n0", spec_id="n0", parent="n2", is_array=True, task_name=""),
        *ran("n2-0-n0-0-n4", spec_id="n4", parent="n2-0-n0"),
    ]
    found = {item.path: item.task_path for item in fold([*events, *END]).nodes.values()}
    assert found == {
        "n0": "n0",
        "n0/dn0": "n0",
        "n0/dn0/dn1": "n0",
        "n0/dn2": "n0",
        "n0/dn2/n3": "n0",
        "n1": "n1",
        "n1/n5": "n1",
        "n2": "n2",
        "n2/n0": "n2/n0",
        "n2/n0/n4": "n2/n0",
        "end-node": "end-node",
    }


@pytest.mark.parametrize("parents", [{"n0": "n0"}, {"n0": "n1", "n1": "n0"}, {"n0": "n1", "n1": "n2", "n2": "n0"}])
def test_parents_that_name_each_other_end(parents: dict[str, str]) -> None:
    found = fold([*(node(item, parent=parent) for item, parent in parents.items()), *END])
    for item in parents:
        assert len(found.nodes[item].path) < 500
        assert found.nodes[item].path == found.nodes[item].task_path


def test_depth_is_bounded() -> None:
    chain = [node(f"n{number}", parent=f"n{number - 1}" if number else "") for number in range(500)]
    found = fold([*chain, *END])
    assert max(item.path.count("/") for item in found.nodes.values()) < 100


def test_a_parent_that_no_event_told_of_stands_in_by_its_unique_id_and_the_tree_is_not_complete() -> None:
    found = fold([*ran("n2-0-n1", spec_id="n1", parent="n2"), *END])
    assert found.nodes["n2-0-n1"].path == "n2/n1"
    assert not found.complete
    assert list(found.nodes) == ["n2-0-n1", "end-node"], "what was not seen is no node"


# -- success and completeness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", stories(publishers=["external"]), ids=str)
def test_every_recorded_tree_is_complete_unless_it_was_cut_off(story: Story) -> None:
    found = fold(story.facts)
    assert not found.inferred
    assert found.succeeded == (found.time.phase == "SUCCEEDED")
    assert found.complete or not found.succeeded


def test_the_ghosts_of_a_map_do_not_keep_a_tree_open() -> None:
    found = tree("inline/map", "map-1-inl")
    ghosts = [item for item in found.nodes.values() if item.phase == "QUEUED"]
    assert [item.id for item in ghosts] == ["n0-n0", "n0-n1", "n0-n2"]
    assert found.complete
    assert not any(item.runs_code for item in ghosts)


def test_a_node_that_only_looks_like_a_ghost_keeps_the_tree_open() -> None:
    array = ran("n0", is_array=True, task_name="")
    ghost = node("n0-n0", "QUEUED", spec_id="", parent="n0", event_version=0, task_name="")
    assert fold([*array, ghost, *END]).complete
    for other in (
        node("n0-n0", "QUEUED", spec_id="n0", parent="n0", event_version=0),
        node("n0-n0", "QUEUED", spec_id="", parent="n0", event_version=1),
        node("n0-n0", "QUEUED", spec_id="", parent="", event_version=0),
        node("n0-n0", "QUEUED", spec_id="", parent="end-node", event_version=0),
    ):
        assert not fold([*array, other, *END]).complete


@pytest.mark.parametrize("phase", ["SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT", "SKIPPED", "RECOVERED"])
def test_a_tree_is_complete_when_every_seen_node_has_ended(phase: str) -> None:
    assert fold([node("n0", phase), *END]).complete
    assert not fold([node("n0", "RUNNING"), node("n1", phase), *END]).complete


def test_success_is_inferred_from_the_end_node() -> None:
    found = fold([*ran("n0"), node("end-node", at=50, task_name=""), workflow("RUNNING", 1)])
    assert (found.succeeded, found.inferred) == (True, True)
    found = fold([*ran("n0"), workflow("SUCCEEDING", 60)])
    assert (found.succeeded, found.inferred) == (True, True)
    found = fold([*ran("n0"), node("end-node", at=50, task_name="")])
    assert (found.succeeded, found.inferred) == (True, True)


def test_success_is_not_inferred_where_an_event_says_otherwise_or_nothing() -> None:
    end = node("end-node", at=50, task_name="")
    for phase in ("FAILING", "FAILED", "ABORTED", "TIMED_OUT"):
        found = fold([end, workflow(phase)])
        assert (found.succeeded, found.inferred) == (False, False)
    assert not fold([node("end-node", "QUEUED", task_name=""), workflow("RUNNING")]).succeeded
    assert not fold([node("n2-0-end-node", spec_id="end-node", parent="n2", task_name="")]).succeeded
    assert not fold([]).succeeded
    assert (fold([end, workflow()]).succeeded, fold([end, workflow()]).inferred) == (True, False)


def test_a_nested_end_node_by_unique_id_is_not_the_workflows() -> None:
    """Its unique id is never ``end-node``; one that claims a parent is none of the top level."""
    nested = node("end-node", parent="n2", task_name="")
    assert not fold([nested, node("n2", "RUNNING", task_name="")]).succeeded


# -- gaps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", stories(publishers=["external"]), ids=str)
def test_dropping_any_one_event_only_takes_away(story: Story) -> None:
    """No node gets a better phase, an output or a place that it had not."""
    whole = fold(story.facts)
    for number in range(len(story.facts)):
        found = fold(story.facts[:number] + story.facts[number + 1 :])
        assert not (found.succeeded and not whole.succeeded)
        for node_id, item in found.nodes.items():
            before = whole.nodes[node_id]
            assert not (item.done and not before.done)
            assert item.output_uri in ("", before.output_uri)
            assert item.input_uri in ("", before.input_uri)
            assert item.task_name in ("", before.task_name)
            if item.runs_code and item.done:
                assert (item.path, item.task_path) == (before.path, before.task_path)

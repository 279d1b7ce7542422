"""A node tree and its literal maps to lineage. Section names are DESIGN.md 4's."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from flyteidl.core import literals_pb2

from flytelineage.lineage.build import (
    FoundSchema,
    WantedLiterals,
    build,
    tasks_of,
    wanted_literals,
    wanted_schemas,
    with_schemas,
)
from flytelineage.lineage.fold import fold
from flytelineage.lineage.types import Foreign, Lineage, Made, Placed, TaskKey, TaskRunLineage
from flytelineage.model import ExecutionId, Field, NamingRule
from tests.support.events import (
    Data,
    Story,
    execution_id,
    facts_of,
    handed_on,
    lineage,
    lineage_of,
    literals,
    node,
    ran,
    raw_uri,
    read,
    stories,
    task,
    took,
    upstream,
    workflow,
    wrote,
)

OURS = raw_uri("run-1-n0-0")
"""What n0 wrote, its name in clear."""
HASHED = raw_uri("fhd73hsk4lhsg")
USER_PATH = "s3://scratch/run-1/table"
PLACE = "s3://lake/gold/orders"
FOREIGN = raw_uri("older-n0-0")
NONE: dict[str, Data] = {}
END_NODE = node("end-node", at=900, task_name="")


def recorded(case: str, name: str, publisher: Any = "cloudevents") -> Lineage:
    key = next(key for key in facts_of(case, publisher) if key.endswith(f"/{name}"))
    found = lineage_of(key, facts_of(case, publisher)[key])
    assert found is not None
    return found


def runs(found: Lineage, path: str) -> tuple[TaskRunLineage, ...]:
    return next(item.runs for item in found.tasks if item.key.path == path)


def foreign(found: Lineage) -> list[Foreign]:
    refs = [ref for item in found.tasks for run in item.runs for ref in run.refs]
    return [ref for ref in refs if isinstance(ref, Foreign)]


def writer(node_id: str = "n0", uri: str = OURS, start: int = 10, end: int = 20, **more: Any) -> list[Any]:
    """A node without data inputs that returns ``o0`` at ``uri``."""
    return ran(node_id, start, end, inputs=NONE, outputs={"o0": uri}, **more)


def reader(node_id: str = "n1", uri: str = OURS, start: int = 30, end: int = 40, **more: Any) -> list[Any]:
    """A node that reads ``x`` at ``uri`` and returns no data."""
    return ran(node_id, start, end, inputs={"x": uri}, outputs=NONE, **{"task_name": "m.use", **more})


# -- Who wrote it ----------------------------------------------------------------------------------------------------


def test_a_run_scoped_uri_names_its_writer() -> None:
    found = lineage([*writer(), *reader()])
    assert wrote(found) == {"n0": {"n0.o0"}, "n1": set()}


def test_the_name_in_clear_decides_against_unknown_inputs() -> None:
    found = lineage([*ran("n0", inputs=None, outputs={"o0": OURS}), *reader()])
    assert wrote(found)["n0"] == {"n0.o0"}


def test_the_name_in_clear_decides_against_inputs_that_hold_it() -> None:
    """A name is proof; an input that holds the node's own later output is none."""
    found = lineage(ran("n0", inputs={"x": OURS}, outputs={"o0": OURS}))
    assert wrote(found)["n0"] == {"n0.o0"}


def test_the_name_in_clear_decides_against_the_node_that_returns_it() -> None:
    events = [*writer(), *ran("n1", 30, 40, inputs=None, outputs={"o0": OURS}, task_name="m.use")]
    found = lineage(events)
    assert wrote(found) == {"n0": {"n0.o0"}, "n1": set()}
    assert handed_on(found)["n1"] == {"n0.o0"}


def test_the_last_attempt_wrote_what_its_name_says() -> None:
    uri = raw_uri("run-1-n0-1")
    found = lineage(ran("n0", inputs=NONE, outputs={"o0": uri}))
    assert wrote(found)["n0"] == {"n0.o0"}


@pytest.mark.parametrize("uri", [PLACE, HASHED, USER_PATH])
def test_placed_and_hashed_data_is_written_by_the_leaf_whose_output_has_it_and_whose_inputs_do_not(uri: str) -> None:
    found = lineage(writer(uri=uri))
    assert wrote(found)["n0"] == {"s3:lake/gold/orders" if uri == PLACE else "n0.o0"}


@pytest.mark.parametrize("uri", [PLACE, HASHED, USER_PATH])
def test_unknown_inputs_prove_no_writer_of_placed_and_hashed_data(uri: str) -> None:
    found = lineage(ran("n0", inputs=None, outputs={"o0": uri}))
    assert wrote(found)["n0"] == set()
    assert found.datasets == ()


@pytest.mark.parametrize("uri", [OURS, PLACE, HASHED, USER_PATH])
def test_an_output_that_is_an_input_was_handed_on_and_is_no_output_of_the_task(uri: str) -> None:
    hands_on = ran("n1", 30, 40, inputs={"x": uri}, outputs={"o0": uri}, task_name="m.check")
    found = lineage([*writer(uri=uri), *hands_on])
    dataset = "s3:lake/gold/orders" if uri == PLACE else "n0.o0"
    assert wrote(found) == {"n0": {dataset}, "n1": set()}
    assert handed_on(found)["n1"] == {dataset}
    assert upstream(found) == {"n0": set(), "n1": {"n0"}}


def test_handed_on_from_inside_a_collection() -> None:
    hands_on = ran("n1", 30, 40, inputs={"x": [OURS, PLACE]}, outputs={"o0": PLACE}, task_name="m.pick")
    found = lineage([*writer(), *hands_on])
    assert wrote(found)["n1"] == set()


def test_a_rewrite_in_place_is_taken_for_handing_on() -> None:
    rewrites = ran("n0", inputs={"x": PLACE}, outputs={"o0": PLACE})
    found = lineage(rewrites)
    assert wrote(found)["n0"] == set()
    assert read(found)["n0"] == {"s3:lake/gold/orders"}
    assert [item.wrote for item in found.datasets] == [False]


def test_the_recorded_task_that_checks_hands_on() -> None:
    found = recorded("lake-publish", "publish-1")
    assert handed_on(found)["n2"] == {"s3:lake/gold/orders"}
    assert wrote(found)["n2"] == set()
    assert wrote(found)["n1"] == {"s3:lake/gold/orders"}


def test_a_node_that_did_not_succeed_wrote_nothing() -> None:
    for phase in ("FAILED", "ABORTED", "TIMED_OUT", "RUNNING", "SKIPPED"):
        events = [node("n0", "RUNNING", 10, inputs=NONE), node("n0", phase, 20, outputs={"o0": PLACE})]
        assert wrote(lineage([*events, *reader()]))["n0"] == set()


def test_a_failed_index_of_a_map_leaves_none_in_the_collection() -> None:
    none = literals_pb2.Literal()
    none.scalar.none_type.SetInParent()
    found = lineage(ran("n0", inputs=NONE, outputs={"o0": [OURS, none]}, is_array=True))
    assert wrote(found)["n0"] == {"n0.o0"}
    assert found.datasets[0].uris == (OURS,)


def test_outputs_of_a_dynamic_node_are_its_childrens() -> None:
    uri = raw_uri("run-1-n0-0-dn0-0")
    events = [
        *ran("n0", 10, 50, inputs=NONE, outputs={"o0": uri}, is_dynamic=True, task_name="m.dyn"),
        *ran("n0-0-dn0", 20, 30, spec_id="dn0", parent="n0", inputs=NONE, outputs={"o0": uri}),
        *reader(uri=uri, start=60, end=70),
    ]
    found = lineage(events)
    by_task = {item.key.task: item for item in found.tasks}
    child = by_task["m.make"]
    assert [output.ref for run in child.runs for output in run.outputs] == [Made(child.key, "o0")]
    assert [output.handed_on for run in by_task["m.dyn"].runs for output in run.outputs] == [True]
    assert by_task["m.use"].upstream == (child.key,)


@pytest.mark.parametrize("uri", [PLACE, HASHED])
def test_placed_and_hashed_outputs_of_a_dynamic_node_are_its_childrens(uri: str) -> None:
    """The dynamic node has no such input either; but it passes through."""
    events = [
        *ran("n0", 10, 50, inputs=NONE, outputs={"o0": uri}, is_dynamic=True, task_name="m.dyn"),
        *ran("n0-0-dn0", 20, 30, spec_id="dn0", parent="n0", inputs=NONE, outputs={"o0": uri}),
    ]
    found = {item.key.task: item for item in lineage(events).tasks}
    assert [output.handed_on for run in found["m.dyn"].runs for output in run.outputs] == [True]
    assert [output.handed_on for run in found["m.make"].runs for output in run.outputs] == [False]


def test_a_dynamic_node_is_not_the_writer_of_a_child_that_no_event_told_of() -> None:
    """``run-1-n0-0-dn3-0`` is node ``n0-0-dn3``; only of an array is a last ``-n3-0`` an index (invariant 5)."""
    uri = raw_uri("run-1-n0-0-n3-0")
    events = ran("n0", inputs=NONE, outputs={"o0": uri}, is_dynamic=True, task_name="m.dyn")
    found = lineage([*events, *reader(uri=uri)])
    assert wrote(found)["n0"] == set()
    assert read(found)["n1"] == set()
    assert upstream(found)["n1"] == set()


def test_the_indices_of_a_map_wrote_what_the_map_returned() -> None:
    uris = [raw_uri(f"run-1-n0-0-n{index}-0") for index in range(3)]
    found = lineage([*ran("n0", inputs=NONE, outputs={"o0": uris}, is_array=True), *reader(uri=uris[1])])
    assert wrote(found)["n0"] == {"n0.o0"}
    assert found.datasets[0].uris == tuple(sorted(uris))
    assert read(found)["n1"] == {"n0.o0"}
    assert upstream(found)["n1"] == {"n0"}


def test_nodes_that_run_no_code_wrote_nothing_and_pass_data_through() -> None:
    uri = raw_uri("run-1-n0-0-n0-0")
    events = [
        node("start-node", task_name="", outputs={"x": PLACE}),
        *ran("n0", 10, 50, outputs={"o0": uri}, task_name=""),
        *ran("n0-0-n0", 20, 30, spec_id="n0", parent="n0", inputs={"x": PLACE}, outputs={"o0": uri}),
        *reader(uri=uri, start=60, end=70),
        node("end-node", at=90, task_name="", inputs={"o0": uri}),
    ]
    found = lineage(events)
    assert wrote(found) == {"n0/n0": {"n0/n0.o0"}, "n1": set()}
    assert upstream(found)["n1"] == {"n0/n0"}


def test_a_node_of_this_execution_that_no_event_told_of_is_not_shown() -> None:
    uri = raw_uri("run-1-n7-0")
    found = lineage([
        *ran("n0", inputs={"x": uri}, outputs=NONE),
        *ran("n1", 30, 40, inputs=None, outputs={"o0": uri}, task_name="m.use"),
    ])  # fmt: skip
    assert read(found)["n0"] == set()
    assert wrote(found)["n1"] == handed_on(found)["n1"] == set()
    assert found.datasets == ()


def test_inputs_that_hide_their_data_prove_no_writer() -> None:
    """ "Whose own, known inputs do not": what stands in a dataclass, a struct or an offloaded literal is not known.

    Invariant 5: what follows from absence is concluded from known inputs only.
    """
    hidden = []
    for _ in range(4):
        hidden.append(literals_pb2.Literal())
    hidden[0].scalar.binary.tag, hidden[0].scalar.binary.value = "msgpack", b"\x81\xa4path\xa0"
    hidden[1].scalar.generic.fields["path"].string_value = PLACE
    hidden[2].offloaded_metadata.uri = "s3://b/offloaded.pb"
    hidden[3].scalar.schema.uri = PLACE
    for item in hidden:
        found = lineage(ran("n0", inputs={"bundle": item}, outputs={"o0": PLACE}))
        assert wrote(found)["n0"] == set(), item


# -- Who is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", [OURS, PLACE, HASHED, USER_PATH])
def test_an_inputs_uri_resolves_to_an_output_of_the_same_execution(uri: str) -> None:
    found = lineage([*writer(uri=uri), *reader(uri=uri)])
    assert read(found)["n1"] == wrote(found)["n0"]
    assert upstream(found) == {"n0": set(), "n1": {"n0"}}


@pytest.mark.parametrize("uri", [OURS, HASHED, USER_PATH])
def test_a_file_inside_a_directory_of_this_execution_is_the_directory(uri: str) -> None:
    found = lineage([*writer(uri=uri), *reader(uri=uri + "/index.html")])
    assert read(found)["n1"] == {"n0.o0"}
    assert upstream(found)["n1"] == {"n0"}


def test_a_file_inside_a_placed_directory_of_this_execution_is_the_directory() -> None:
    found = lineage([*writer(uri=PLACE), *reader(uri=PLACE + "/part/00000")])
    assert read(found)["n1"] == {"s3:lake/gold/orders"}
    assert upstream(found)["n1"] == {"n0"}


def test_the_longest_whole_segment_prefix_counts() -> None:
    events = [
        *writer("n0", "s3://lake/gold"),
        *writer("n1", "s3://lake/gold/orders", 22, 24, task_name="m.other"),
        *reader("n2", "s3://lake/gold/orders/x"),
        *reader("n3", "s3://lake/gold/orders2", task_name="m.use2"),
        *reader("n4", "s3://lake/goldfish", task_name="m.use3"),
    ]
    found = lineage(events)
    assert read(found)["n2"] == {"s3:lake/gold/orders"}
    assert read(found)["n3"] == {"s3:lake/gold"}
    assert read(found)["n4"] == {"s3:lake/goldfish"}
    assert upstream(found)["n2"] == {"n1"}
    assert upstream(found)["n4"] == set()


def test_a_buckets_root_is_no_prefix() -> None:
    found = lineage([*writer(uri="s3://lake"), *reader(uri="s3://lake/gold/orders")])
    assert read(found)["n1"] == {"s3:lake/gold/orders"}
    assert upstream(found)["n1"] == set()


def test_of_several_writers_the_last_that_ended_before_the_reader_started() -> None:
    events = [
        *writer("n0", PLACE, 10, 20),
        *writer("n1", PLACE, 21, 25, task_name="m.second"),
        *reader("n2", PLACE, 30, 40),
    ]
    found = lineage(events)
    assert upstream(found)["n2"] == {"n1"}
    assert read(found)["n2"] == {"s3:lake/gold/orders"}


def test_a_writer_that_starts_after_the_reader_ended_is_not_in_the_way() -> None:
    """It overlaps neither the reader nor the other writer: the last that ended before the reader is proved."""
    events = [
        *writer("n0", PLACE, 10, 20),
        *reader("n1", PLACE, 30, 40),
        *writer("n2", PLACE, 50, 60, task_name="m.later"),
    ]
    assert upstream(lineage(events))["n1"] == {"n0"}


@pytest.mark.parametrize(("start", "end"), [(5, 12), (12, 15), (15, 25), (10, 20)])
def test_writers_that_overlap_each_other_prove_nothing(start: int, end: int) -> None:
    events = [
        *writer("n0", PLACE, 10, 20),
        *writer("n1", PLACE, start, end, task_name="m.second"),
        *reader("n2", PLACE, 30, 40),
    ]
    found = lineage(events)
    assert upstream(found)["n2"] == set()
    assert read(found)["n2"] == {"s3:lake/gold/orders"}


@pytest.mark.parametrize(("start", "end"), [(25, 35), (32, 35), (35, 45), (25, 50)])
def test_a_writer_that_overlaps_the_reader_proves_nothing(start: int, end: int) -> None:
    events = [
        *writer("n0", PLACE, 10, 20),
        *writer("n1", PLACE, start, end, task_name="m.second"),
        *reader("n2", PLACE, 30, 40),
    ]
    assert upstream(lineage(events))["n2"] == set()


def test_a_single_writer_that_overlaps_the_reader_proves_nothing() -> None:
    assert upstream(lineage([*writer("n0", PLACE, 10, 35), *reader("n1", PLACE, 30, 40)]))["n1"] == set()


def test_a_writer_whose_end_is_not_known_proves_nothing() -> None:
    lost = [
        node("n0", "QUEUED", 9, inputs=NONE),
        task("n0", "SUCCEEDED", 20, outputs=literals({"o0": PLACE})),
    ]
    assert upstream(lineage([*lost, *reader(uri=PLACE)]))["n1"] == set()


@pytest.mark.parametrize("uri", [PLACE, USER_PATH])
def test_an_incomplete_tree_proves_no_writer_of_a_place(uri: str) -> None:
    events = [*writer(uri=uri), *reader(uri=uri)]
    assert upstream(lineage(events))["n1"] == {"n0"}
    assert upstream(lineage([*events, node("n5", "RUNNING", 15, task_name="m.other")]))["n1"] == set()
    assert upstream(lineage([*events, *ran("n6-0-n1", spec_id="n1", parent="n6", outputs=NONE)]))["n1"] == set()


def test_unknown_literals_of_any_node_prove_no_writer_of_a_place() -> None:
    """The unknown one may have written it in between."""
    events = [*writer(uri=PLACE), *reader(uri=PLACE)]
    undecided: dict[str, Data] = {"o0": PLACE}
    for inputs, outputs in ((None, undecided), (NONE, None), (None, None)):
        other = ran("n5", 21, 25, inputs=inputs, outputs=outputs, task_name="m.other")
        assert upstream(lineage([*events, *other]))["n1"] == set()


def test_a_reader_without_running_started_at_queued_and_not_at_its_end() -> None:
    """RUNNING may be absent (flyte-events.md 2.4): without QUEUED too, nothing tells when it started."""
    events = [
        *writer("n0", PLACE, 10, 35),
        node("n1", "QUEUED", 30, inputs={"x": PLACE}, task_name="m.use"),
        node("n1", at=40, inputs={"x": PLACE}, outputs=NONE, task_name="m.use"),
    ]
    assert upstream(lineage(events))["n1"] == set(), "they overlap"
    del events[3]
    assert upstream(lineage(events))["n1"] == set(), "dropping an event adds no edge"


def test_a_writer_without_running_started_at_queued_and_not_at_its_end() -> None:
    second = [
        node("n1", "QUEUED", 15, inputs=NONE, task_name="m.second"),
        node("n1", at=25, inputs=NONE, outputs={"o0": PLACE}, task_name="m.second"),
    ]
    around = [*writer("n0", PLACE, 10, 20), *reader("n2", PLACE, 30, 40)]
    assert upstream(lineage([*around, *second]))["n2"] == set(), "they overlap"
    assert upstream(lineage([*around, second[1]]))["n2"] == set(), "dropping an event adds no edge"


@pytest.mark.parametrize("uri", [OURS, HASHED])
def test_run_scoped_data_has_one_writer_also_in_an_incomplete_tree(uri: str) -> None:
    events = [*writer(uri=uri), *reader(uri=uri), node("n5", "RUNNING", 15, task_name="m.other")]
    assert upstream(lineage(events))["n1"] == {"n0"}


def test_of_several_writers_of_one_user_path_the_last_is_read() -> None:
    """A path with the execution's name is run-scoped, and yet a place: tasks may write it one after the other."""
    events = [
        *writer("n0", USER_PATH, 10, 20),
        *writer("n1", USER_PATH, 21, 25, task_name="m.second"),
        *reader("n2", USER_PATH, 30, 40),
    ]
    found = lineage(events)
    assert upstream(found)["n2"] == {"n1"}
    assert read(found)["n2"] == {"n1.o0"}


def test_writers_of_one_user_path_that_overlap_prove_nothing() -> None:
    events = [
        *writer("n0", USER_PATH, 10, 20),
        *writer("n1", USER_PATH, 15, 25, task_name="m.second"),
        *reader("n2", USER_PATH, 30, 40),
    ]
    found = lineage(events)
    assert upstream(found)["n2"] == set()
    assert read(found)["n2"] == set()


def test_a_file_of_a_directory_that_is_written_afterwards_is_the_directory_too_and_proves_no_order() -> None:
    """A place is one dataset whenever it was written; what stood there before is not this writer's."""
    rewrites = ran("n0", inputs={"x": PLACE + "/old.csv"}, outputs={"o0": PLACE})
    found = lineage(rewrites)
    assert wrote(found)["n0"] == read(found)["n0"] == {"s3:lake/gold/orders"}
    assert upstream(found)["n0"] == set()
    found = lineage([*reader("n0", PLACE + "/day.csv", 10, 20), *writer("n1", PLACE, 30, 40)])
    assert read(found)["n0"] == {"s3:lake/gold/orders"}
    assert upstream(found)["n0"] == set()


def test_hashed_data_is_of_another_execution_only_where_no_writer_here_can_be_missing() -> None:
    """Invariant 5: a hashed segment may be a node's of this execution whose events were lost."""
    found = lineage([*reader("n0", HASHED), node("n5", "RUNNING", 15, task_name="m.other")])
    assert read(found)["n0"] == set()


def test_run_scoped_data_of_another_execution_is_foreign() -> None:
    found = lineage(reader("n0", FOREIGN))
    assert [(ref.uri, ref.fallback) for ref in foreign(found)] == [(FOREIGN, None)]
    assert found.datasets == ()


def test_hashed_data_that_nobody_here_wrote_is_foreign() -> None:
    assert [ref.uri for ref in foreign(lineage(reader("n0", HASHED)))] == [HASHED]


def test_data_of_a_child_execution_is_foreign() -> None:
    uri = raw_uri("run-1-n0-0-n0-0")
    events = [*ran("n0", task_name="", child_execution="run-1-n0-0"), *reader(uri=uri)]
    assert [ref.uri for ref in foreign(lineage(events))] == [uri]


def test_a_user_path_of_this_execution_with_unknown_writer_is_kept_and_not_shown() -> None:
    found = lineage(reader("n0", USER_PATH))
    assert read(found)["n0"] == set()
    assert found.datasets == ()


def test_a_place_that_nobody_here_wrote_is_the_dataset_of_that_place() -> None:
    found = lineage(reader("n0", "s3://landing-zone/shop/orders.csv"))
    assert read(found)["n0"] == {"s3:landing-zone/shop/orders.csv"}
    assert [(item.ref, item.wrote) for item in found.datasets] == [
        (Placed("s3", "landing-zone/shop/orders.csv"), False)
    ]


def test_a_task_is_never_its_own_upstream() -> None:
    """Two nodes below one dynamic node that run the same task are one Task."""
    uri = raw_uri("run-1-n0-0-dn0-0")
    events = [
        *ran("n0", 1, 90, inputs=NONE, outputs=NONE, is_dynamic=True, task_name="m.dyn"),
        *ran("n0-0-dn0", 10, 20, spec_id="dn0", parent="n0", inputs=NONE, outputs={"o0": uri}),
        *ran("n0-0-dn1", 30, 40, spec_id="dn1", parent="n0", inputs={"x": uri}, outputs=NONE),
    ]
    found = {item.key.task: item for item in lineage(events).tasks}
    assert found["m.make"].upstream == ()
    assert len(found["m.make"].runs) == 2


# -- Cache hits and recovered nodes ----------------------------------------------------------------------------------

BORROWED = [pytest.param("SUCCEEDED", id="cache hit"), pytest.param("RECOVERED", id="recovered")]


@pytest.mark.parametrize("phase", BORROWED)
@pytest.mark.parametrize("uri", [FOREIGN, HASHED])
def test_a_borrowed_run_scoped_output_is_its_makers_else_its_own_by_name(phase: str, uri: str) -> None:
    found = lineage([*took("n0", phase=phase, inputs=NONE, outputs={"o0": uri}), *reader(uri=uri)])
    key = TaskKey("m.make", "v1", "n0")
    (output,) = runs(found, "n0")[0].outputs
    assert output.ref == Foreign(uri, Made(key, "o0"))
    assert not output.handed_on
    (entry,) = runs(found, "n1")[0].inputs
    assert entry.ref == output.ref
    assert upstream(found)["n1"] == {"n0"}
    assert found.datasets == (), "no location, no schema from this run"


@pytest.mark.parametrize("phase", BORROWED)
def test_a_borrowed_placed_output_is_the_place_without_facts_from_this_run(phase: str) -> None:
    found = lineage(took("n0", phase=phase, inputs=NONE, outputs={"o0": PLACE}))
    assert wrote(found)["n0"] == {"s3:lake/gold/orders"}
    assert found.datasets == ()


@pytest.mark.parametrize("phase", BORROWED)
@pytest.mark.parametrize("uri", [OURS, PLACE, HASHED, FOREIGN])
def test_a_borrowed_output_that_is_an_input_was_handed_on(phase: str, uri: str) -> None:
    events = [*writer(uri=uri), *took("n1", 25, phase=phase, inputs={"x": uri}, outputs={"o0": uri}, task_name="m.c")]
    assert wrote(lineage(events))["n1"] == set()


def test_a_cache_hit_on_another_node_of_the_same_execution_keeps_its_edge() -> None:
    """Invariant 6: "the edge to it stays, pointing at the dataset its real producer made"; it was not handed it."""
    events = [*writer(), *took("n1", 25, inputs=NONE, outputs={"o0": OURS})]
    found = lineage(events)
    assert wrote(found) == {"n0": {"n0.o0"}, "n1": {"n0.o0"}}
    assert [item.uris for item in found.datasets] == [(OURS,)]


def test_a_borrowed_write_of_a_place_is_no_write_of_this_run() -> None:
    """n1 took its result from the cache: what the reader found at the place is what n0 wrote."""
    events = [
        *writer("n0", PLACE, 10, 20),
        *took("n1", 25, inputs=NONE, outputs={"o0": PLACE}, task_name="m.cached"),
        *reader("n2", PLACE, 30, 40),
    ]
    without = [item for item in events if getattr(item, "node_id", "") != "n1"]
    assert upstream(lineage(events))["n2"] >= upstream(lineage(without))["n2"], "dropping an event adds no edge"


def test_the_recorded_cache_hit() -> None:
    """Populated by cached-1, hit by cached-2, populated anew by cached-3."""
    first, hit, third = (recorded("caching", f"cached-{number}") for number in (1, 2, 3))
    assert [run.cached for run in (*runs(first, "n0"), *runs(hit, "n0"), *runs(third, "n0"))] == [False, True, False]
    (output,) = runs(hit, "n0")[0].outputs
    assert output.uri == runs(first, "n0")[0].outputs[0].uri
    assert runs(hit, "n0")[0].source_execution == "flytesnacks/development/cached-1"
    assert runs(third, "n0")[0].source_execution is None
    assert upstream(hit) == upstream(first) == {"n0": set(), "n1": {"n0"}}


def test_the_recorded_recovered_node() -> None:
    found = recorded("recover", "recover-2")
    (output,) = runs(found, "n0")[0].outputs
    assert "/recover-1-n0-0/" in output.uri
    assert isinstance(output.ref, Foreign)
    assert output.ref.fallback is not None
    assert upstream(found)["n1"] == {"n0"}
    assert runs(found, "n0")[0].phase == "RECOVERED"


# -- datasets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [[OURS, OURS + "2"], {"a": OURS, "b": [OURS + "2"]}], ids=["collection", "map"])
def test_a_collection_or_map_in_one_variable_is_one_dataset_with_several_locations(many: Data) -> None:
    uris = [raw_uri("run-1-n0-0", salt) for salt in "ab"]
    value: Data = uris if isinstance(many, list) else {"a": uris[0], "b": [uris[1]]}
    found = lineage(ran("n0", inputs=NONE, outputs={"o0": value}))
    assert wrote(found)["n0"] == {"n0.o0"}
    assert len(runs(found, "n0")[0].outputs) == 2
    assert [item.uris for item in found.datasets] == [tuple(sorted(uris))]


def test_a_union_is_what_it_holds() -> None:
    value = literals_pb2.Literal()
    value.scalar.union.value.scalar.blob.uri = OURS
    value.scalar.union.value.scalar.blob.metadata.type.format = "csv"
    found = lineage(ran("n0", inputs=NONE, outputs={"o0": value}))
    assert [(item.format, item.uris) for item in found.datasets] == [("csv", (OURS,))]


def test_each_variable_is_a_dataset_of_its_own() -> None:
    outputs: dict[str, Data] = {"train": raw_uri("run-1-n0-0", "a"), "test": raw_uri("run-1-n0-0", "b")}
    found = lineage([*ran("n0", inputs=NONE, outputs=outputs), *reader(uri=outputs["train"])])
    assert wrote(found)["n0"] == {"n0.train", "n0.test"}
    assert read(found)["n1"] == {"n0.train"}


def test_one_location_in_two_variables_is_one_location_of_each() -> None:
    found = lineage(ran("n0", inputs=NONE, outputs={"a": OURS, "b": OURS}))
    assert wrote(found)["n0"] == {"n0.a", "n0.b"}


def test_what_was_written_stands_above_what_was_read_of_a_place() -> None:
    events = [*reader("n0", PLACE + "/day=1", 10, 20), *writer("n1", PLACE, 30, 40)]
    found = {item.ref: item for item in lineage(events).datasets}
    assert found[Placed("s3", "lake/gold/orders")].wrote
    assert found[Placed("s3", "lake/gold/orders")].uris == (PLACE,)


def test_the_schemas_that_are_wanted_and_what_they_say() -> None:
    found = lineage([*writer(), *writer("n1", PLACE, 30, 40, task_name="m.b"), *reader("n2", FOREIGN, 50, 60)])
    wanted = {(item.uri, item.format) for item in wanted_schemas(found)}
    assert wanted == {(OURS, "parquet"), (PLACE, "parquet")}
    fields = (Field("a", "int64", nullable=True),)
    place = Placed("s3", "lake/gold/orders")
    done = with_schemas(found, {place: FoundSchema(fields, "file", 3, 30)})
    facts = {item.ref: (item.fields, item.schema_source, item.rows, item.bytes) for item in done.datasets}
    assert facts[place] == (fields, "file", 3, 30)
    assert [item.uri for item in wanted_schemas(done)] == [OURS]


def test_rows_and_bytes_of_one_of_several_locations_are_not_the_datasets() -> None:
    uris = [raw_uri("run-1-n0-0", salt) for salt in "ab"]
    found = lineage(ran("n0", inputs=NONE, outputs={"o0": uris}))
    (wanted,) = wanted_schemas(found)
    (dataset,) = with_schemas(found, {wanted.ref: FoundSchema((), "file", 3, 30)}).datasets
    assert (dataset.rows, dataset.bytes) == (None, None)


# -- tasks and runs --------------------------------------------------------------------------------------------------


def test_two_nodes_that_run_the_same_task_are_two_tasks_and_below_a_dynamic_node_one() -> None:
    events = [
        *ran("n0"),
        *ran("n1"),
        *ran("n2", is_dynamic=True, task_name="m.dyn"),
        *ran("n2-0-dn0", spec_id="dn0", parent="n2"),
        *ran("n2-0-dn1", spec_id="dn1", parent="n2"),
        *ran("n2-0-dn2", spec_id="dn2", parent="n2", task_name=""),
        *ran("n2-0-dn2-0-n0", spec_id="n0", parent="n2-0-dn2"),
    ]
    keys = [(item.key.task, item.key.path, len(item.runs)) for item in lineage(events).tasks]
    assert sorted(keys) == [("m.dyn", "n2", 1), ("m.make", "n0", 1), ("m.make", "n1", 1), ("m.make", "n2", 3)]


def test_tasks_stand_in_natural_order() -> None:
    found = lineage([*ran("n10"), *ran("n9"), *ran("n2")])
    assert [item.key.path for item in found.tasks] == ["n2", "n9", "n10"]


def test_the_ghosts_of_a_map_are_no_runs() -> None:
    found = recorded("inline/map", "map-1-inl", "external")
    node_ids = {run.node_id for item in found.tasks for run in item.runs}
    assert node_ids == {"n0-0-n0", "n0-0-n1", "n0-0-n2", "n1"}


def test_the_full_name_of_a_map_is_kept() -> None:
    full = "m.map_extract_" + "0" * 32 + "-arraynode"
    (found,) = lineage(ran("n0", task_name=full, is_array=True)).tasks
    assert (found.key.task, found.flyte_task) == ("m.map_extract", full)


def test_each_attempt_is_a_run_and_the_last_has_the_outputs() -> None:
    found = recorded("retry", "retry-1")
    attempts = runs(found, "n1")
    assert [(run.attempt, run.phase, len(run.inputs), len(run.outputs)) for run in attempts] == [
        (0, "FAILED", 1, 0),
        (1, "SUCCEEDED", 1, 1),
    ]
    assert 0 < attempts[0].started_at < attempts[0].ended_at <= attempts[1].started_at < attempts[1].ended_at


def test_an_attempt_without_task_events_is_told_by_the_output_uri() -> None:
    """If an attempt's first event is its last, none of it is published (flyte-events.md 2.3)."""
    uri = "s3://meta/run-1/n0/data/1/outputs.pb"
    events = [
        node("n0", "QUEUED", 1),
        node("n0", "RUNNING", 2),
        task("n0", "FAILED", 3, 0),
        node("n0", at=9, output_uri=uri, outputs={"o0": OURS}),
    ]
    attempts = runs(lineage(events), "n0")
    assert [(run.attempt, run.phase, run.ended_at) for run in attempts] == [(0, "FAILED", 3), (1, "SUCCEEDED", 9)]
    assert [len(run.outputs) for run in attempts] == [0, 1]


def test_a_cached_or_recovered_node_has_one_run() -> None:
    for phase in ("SUCCEEDED", "RECOVERED"):
        (run,) = runs(lineage(took("n0", 10, phase=phase, inputs=NONE, outputs=NONE)), "n0")
        assert (run.attempt, run.phase, run.ended_at) == (0, phase, 10)
        assert run.cached == (phase == "SUCCEEDED")


def test_the_run_ends_and_starts_with_its_node_where_task_events_are_missing() -> None:
    (run,) = runs(lineage(ran("n0", 10, 20)), "n0")
    assert (run.started_at, run.ended_at) == (10, 20)


# -- the whole -------------------------------------------------------------------------------------------------------


def test_an_execution_without_tasks_says_nothing() -> None:
    tree = fold([node("n0", task_name=""), END_NODE, workflow()])
    assert build(ExecutionId("", "", "p", "d", "run-1"), tree, {}) is None


def test_name_times_tags_and_owners() -> None:
    events = [
        *ran("n0", task_name="m.make"),
        workflow("RUNNING", 1),
        workflow("SUCCEEDED", 99, launch_plan="m.wf", labels={"team": "growth", "a": "b"}, principal="me"),
    ]
    found = lineage(events, done=False)
    assert (found.workflow, found.module, found.naming_rule) == ("m.wf", "m", NamingRule.LAUNCH_PLAN)
    assert found.pipeline == "d.p.m.wf"
    assert (found.started_at, found.ended_at, found.phase, found.phase_inferred) == (1, 99, "SUCCEEDED", False)
    assert (found.tags, found.owners) == (("a:b", "team:growth"), ("me",))


def test_by_the_module_rule_the_workflow_is_the_module() -> None:
    found = lineage(ran("n0", task_name="m.make"))
    assert (found.workflow, found.module, found.naming_rule) == ("m", "m", NamingRule.MODULE)


def test_inferred_success_says_so() -> None:
    found = lineage([*ran("n0"), END_NODE], done=False)
    assert found.phase_inferred


@pytest.mark.parametrize("story", stories(), ids=str)
def test_a_lineage_survives_its_stored_form(story: Story) -> None:
    found = lineage_of(story.execution, story.facts)
    if found is not None:
        assert Lineage.from_json(found.to_json()) == found


@pytest.mark.parametrize("story", stories(), ids=str)
def test_only_successful_executions_become_lineage(story: Story) -> None:
    tree = fold(story.facts)
    assert (lineage_of(story.execution, story.facts) is not None) == (tree.time.phase == "SUCCEEDED")


@pytest.mark.parametrize("story", stories(), ids=str)
def test_the_order_of_arrival_does_not_show(story: Story) -> None:
    assert lineage_of(story.execution, reversed(story.facts)) == lineage_of(story.execution, story.facts)


def test_the_order_of_arrival_does_not_show_among_nodes_of_one_path_and_moment() -> None:
    """A dynamic node's children of two attempts: n0-0-dn0 and n0-1-dn0 have one path."""
    events = [
        node("n0", "DYNAMIC_RUNNING", 5, is_dynamic=True, task_name="m.dyn"),
        node("n0-0-dn0", at=10, spec_id="dn0", parent="n0", outputs={"o0": raw_uri("run-1-n0-0-dn0-0")}),
        node("n0-1-dn0", at=10, spec_id="dn0", parent="n0", outputs={"o0": raw_uri("run-1-n0-1-dn0-0")}),
    ]
    assert len({lineage(order).to_json() for order in permutations(events)}) == 1


def test_wanted_literals_are_those_of_nodes_that_run_code_once_each() -> None:
    tree = fold([
        *ran("n0", input_uri="s3://m/n0/in", output_uri="s3://m/n0/out"),
        node("n1", "RUNNING", input_uri="s3://m/n1/in", output_uri="s3://m/n1/out"),
        *ran("n2", inputs=NONE, outputs=NONE, input_uri="s3://m/n2/in", output_uri="s3://m/n2/out"),
        node("n3", task_name="", input_uri="s3://m/n3/in"),
        workflow(),
    ])  # fmt: skip
    assert wanted_literals(tree) == [
        WantedLiterals("n0", "s3://m/n0/in", "s3://m/n0/out"),
        WantedLiterals("n1", "s3://m/n1/in", ""),
        WantedLiterals("n2", "", ""),
    ]
    assert [item.id for item in tasks_of(tree)] == ["n0", "n1", "n2"]


def test_the_instance_and_the_org_are_the_executions() -> None:
    tree = fold([*ran("n0"), workflow()])
    found = build(execution_id("o/p/d/run-1")._replace(instance="i"), tree, {})
    assert found is not None
    assert found.execution == ExecutionId("i", "o", "p", "d", "run-1")

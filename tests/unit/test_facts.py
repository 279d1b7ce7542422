"""What one event says: the same in protobuf and in JSON, and never an exception that the deriver does not expect."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from flyteidl.admin import event_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError
from hypothesis import given
from hypothesis import strategies as st

from flytelineage.errors import DecodeError
from flytelineage.events import Encoding, Facts, NodeFacts, TaskFacts, WorkflowFacts, decode, read_facts
from tests.support.corpus import cases
from tests.support.events import (
    KINDS,
    V2_TYPE,
    Kind,
    cloudevent,
    decoded,
    external,
    facts_of,
    json_event,
    literals,
    raw,
    request,
    unhurried,
    v2,
)

EXPECTED = (ValueError, TypeError, KeyError, AttributeError, ProtobufDecodeError)
"""What read_facts documents: the deriver makes a dead letter of these, and dies of any other."""


def facts(body: str) -> Facts:
    event = decode(body)
    return read_facts(event.encoding, event.body)


def node_facts(**fields: Any) -> NodeFacts:
    found = facts(v2("Node", json_event("Node", **fields)))
    assert isinstance(found, NodeFacts)
    return found


def plain(found: Facts) -> Facts:
    """Without what only CloudEvents v2 tells."""
    return replace(found, launch_plan="", labels=None, principal="")


# -- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases())
def test_both_publishers_say_the_same_but_for_the_enrichment(case: str) -> None:
    external_, cloudevents = facts_of(case, "external"), facts_of(case, "cloudevents")
    assert external_.keys() == cloudevents.keys()
    for execution, found in external_.items():
        assert sorted(map(repr, map(plain, cloudevents[execution]))) == sorted(map(repr, found))


def test_that_comparison_sees_literals_inside_events() -> None:
    """By repr: it must tell one URI from another."""
    found = [item for item in facts_of("inline/covid", "external")["/flytesnacks/development/covid-1-inl"]]
    inline = [item for item in found if isinstance(item, NodeFacts) and item.outputs is not None]
    assert any("s3://my-s3-bucket/data/" in repr(item) for item in inline)


@pytest.mark.parametrize("case", cases())
def test_every_recorded_time_and_phase_is_told(case: str) -> None:
    for found in facts_of(case, "external").values():
        for item in found:
            assert item.at > 1_700_000_000 * 10**9
            assert item.phase.isupper()


def test_v2_tells_launch_plan_labels_and_principal_with_success() -> None:
    found = facts_of("covid", "cloudevents")["/flytesnacks/development/covid-1"]
    ended = next(item for item in found if isinstance(item, WorkflowFacts) and item.phase == "SUCCEEDED")
    assert ended.launch_plan == "flows.covid.covid_wf"
    assert ended.labels == {"team": "growth"}


def test_a_task_run_by_itself_has_no_launch_plan() -> None:
    """Its v2 launch plan id is of resource type TASK (flyte-events.md 4.2)."""
    found = facts_of("single-task", "cloudevents")["/flytesnacks/development/single-1-task"]
    assert {item.launch_plan for item in found} == {""}


# -- each field ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T23:27:57Z", 0),
        ("2026-11-20T23:27:57.1Z", 100_000_000),
        ("2026-11-20T23:27:57.130Z", 130_000_000),
        ("2026-11-20T23:27:57.130325Z", 130_325_000),
        ("2026-11-20T23:27:57.130325466Z", 130_325_466),
        ("2026-11-20T23:27:57.000000001Z", 1),
    ],
)
def test_times_are_nanoseconds(text: str, expected: int) -> None:
    seconds = int(datetime(2026, 11, 20, 23, 27, 57, tzinfo=UTC).timestamp())
    assert node_facts(occurredAt=text).at == seconds * 10**9 + expected


def test_times_in_protobuf_are_the_same_nanoseconds() -> None:
    message = event_pb2.WorkflowExecutionEventRequest.FromString(request("Workflow", seconds=1_800_000_000))
    message.event.occurred_at.nanos = 130_325_466
    assert facts(external("Workflow", message.SerializeToString())).at == 1_800_000_000_130_325_466


def test_a_time_that_is_not_told_is_zero() -> None:
    assert node_facts(occurredAt=None).at == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_phase_keeps_its_number(kind: Kind) -> None:
    assert facts(v2(kind, json_event(kind, phase=77))).phase == "77"


def test_zero_values_are_absent_in_json() -> None:
    found = facts(v2("Task", json_event("Task")))
    assert isinstance(found, TaskFacts)
    assert found.attempt == 0
    assert found.inputs is None
    event = json_event("Task", retryAttempt=2)
    again = facts(v2("Task", event))
    assert isinstance(again, TaskFacts)
    assert again.attempt == 2


def test_only_a_task_is_a_target_task() -> None:
    launch_plan = {"resourceType": "LAUNCH_PLAN", "project": "p", "domain": "d", "name": "lp", "version": "1"}
    assert node_facts(targetEntity=launch_plan).task_name == ""
    assert node_facts(targetEntity={**launch_plan, "resourceType": "TASK"}).task_name == "lp"


def test_cache_facts() -> None:
    execution = {"project": "p", "domain": "d", "name": "first"}
    key = {"sourceTaskExecution": {"nodeExecutionId": {"nodeId": "n1", "executionId": execution}}}
    found = node_facts(taskNodeMetadata={"cacheStatus": "CACHE_HIT", "catalogKey": key})
    assert (found.cache_status, found.source_execution) == ("CACHE_HIT", "p/d/first")
    populated = node_facts(taskNodeMetadata={"cacheStatus": "CACHE_POPULATED", "catalogKey": {}})
    assert (populated.cache_status, populated.source_execution) == ("CACHE_POPULATED", "")


@pytest.mark.parametrize(
    ("phase", "known"), [("QUEUED", True), ("RECOVERED", True), ("RUNNING", False), ("SUCCEEDED", False)]
)
def test_an_empty_inline_input_map_means_something_only_at_queued_and_recovered(phase: str, known: bool) -> None:
    """flyte-events.md 3: other events carry the oneof with an empty map."""
    assert (node_facts(phase=phase, inputData={}).inputs is not None) == known
    message = event_pb2.NodeExecutionEventRequest.FromString(request("Node", phase=phase))
    message.event.input_data.SetInParent()
    found = facts(external("Node", message.SerializeToString()))
    assert isinstance(found, NodeFacts)
    assert (found.inputs is not None) == known


def test_inline_literals_are_the_same_from_json() -> None:
    uri = "s3://b/data/ab/run-1-n0-0/" + "0" * 32
    member = {"uri": uri, "metadata": {"structuredDatasetType": {"format": "parquet"}}}
    value = {"literals": {"o0": {"scalar": {"structuredDataset": member}}}}
    assert node_facts(outputData=value).outputs == literals({"o0": uri})


def test_fields_that_are_not_known_are_ignored() -> None:
    value = {"literals": {"o0": {"scalar": {"none": {}}, "new": 1}}, "more": 2}
    assert node_facts(outputData=value, newField={"a": 1}).outputs is not None


# -- hostile ---------------------------------------------------------------------------------------------------------


def readable(body: str) -> Facts | None:
    """The facts, or None for what is refused as documented. Any other exception stops the daemon."""
    try:
        event = decode(body)
    except DecodeError:
        return None
    try:
        return read_facts(event.encoding, event.body)
    except EXPECTED:
        return None


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize(("kind", "member"), [("Task", "retryAttempt"), ("Node", "eventVersion")])
def test_a_number_that_is_none_is_refused_as_documented(kind: Kind, member: str, number: str) -> None:
    text = json.dumps({"rawEvent": json_event(kind, **{member: "@"})}).replace('"@"', number)
    encoding = Encoding.TASK_JSON if kind == "Task" else Encoding.NODE_JSON
    with pytest.raises(EXPECTED):
        read_facts(encoding, text.encode())


@pytest.mark.parametrize("number", [-1, 2**32, 2**63, 10**40])
def test_an_attempt_that_no_database_holds_is_refused(number: int) -> None:
    """retry_attempt is a uint32."""
    assert readable(v2("Task", json_event("Task", retryAttempt=number))) is None


TIMES = (2**62, -(2**62), 10**12, -(10**14), 253_402_300_800, 253_402_300_799, 9_223_372_037, -62_135_596_800, -1, 0, 1)


@pytest.mark.parametrize("seconds", TIMES)
def test_a_time_fits_64_bits_and_a_calendar_or_is_refused_or_not_told(seconds: int) -> None:
    """Beyond that, storing the run stops the daemon, or exporting it fails for the whole catalog."""
    found = readable(external("Workflow", request("Workflow", seconds=seconds)))
    if found is not None:
        assert -(2**63) <= found.at < 2**63
        assert datetime.fromtimestamp(found.at // 10**9, UTC).year in range(1678, 2263)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2262-04-11T23:47:17Z"])
def test_a_json_time_fits_64_bits_or_is_refused_or_not_told(text: str) -> None:
    found = readable(v2("Workflow", json_event("Workflow", occurredAt=text)))
    assert found is None or -(2**63) <= found.at < 2**63


@pytest.mark.parametrize(
    "fields",
    [
        {"id": {"nodeId": "n\ud800", "executionId": {"project": "p", "domain": "d", "name": "e"}}},
        {"specNodeId": "\udfff"},
        {"targetEntity": {"resourceType": "TASK", "name": "m.\ud800", "version": "v"}},
        {"targetEntity": {"resourceType": "TASK", "name": "m.t", "version": "\ud800"}},
        {"parentNodeMetadata": {"nodeId": "\ud800"}},
        {"inputUri": "s3://b/\ud800"},
        {"outputUri": "s3://b/\ud800"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_no_fact_holds_text_that_no_database_takes(fields: dict[str, Any]) -> None:
    """Lone surrogates: JSON can say them, UTF-8 cannot. SQLite's driver raises, and the daemon dies of it."""
    found = readable(v2("Node", json_event("Node", **fields)))
    if found is not None:
        repr_ = repr(found)
        repr_.encode()
        assert "\\ud" not in repr_


def test_no_label_holds_text_that_no_database_takes() -> None:
    found = readable(v2("Node", json_event("Node"), labels={"a": "\ud800"}, principal="\ud800"))
    assert found is None or "\\ud800" not in repr(found)


def test_nesting_that_decode_just_took_is_refused_as_documented() -> None:
    """The deriver stands deeper on the stack than the receiver did: what one takes must not kill the other."""

    def deeper(frames: int, call: Callable[[], object]) -> object:
        return deeper(frames - 1, call) if frames else call()

    taken = 0
    for depth in range(400, 1_000, 5):
        data = json.dumps({"rawEvent": json_event("Workflow", more="@")}).replace('"@"', "[" * depth + "]" * depth)
        body = raw(cloudevent(V2_TYPE.format("Workflow"), data.encode()))
        try:
            decode(body)
        except DecodeError:
            break
        taken += 1
        deeper(60, partial(_read_or_refuse, data.encode()))
    assert taken


@pytest.mark.parametrize(
    "member", ["phase", "specNodeId", "nodeName", "retryGroup", "inputUri", "outputUri", "eventVersion", "occurredAt"]
)
def test_a_deeply_nested_value_where_a_text_belongs_is_refused_as_documented(member: str) -> None:
    """Its text alone is more recursion than the interpreter allows."""
    text = json.dumps({"rawEvent": json_event("Node", **{member: "@"})}).replace('"@"', "[" * 1_000 + "]" * 1_000)
    _read_or_refuse(text.encode(), Encoding.NODE_JSON)


def test_deeply_nested_enrichment_and_cache_facts_are_refused_as_documented() -> None:
    deep = "[" * 990 + "]" * 990
    execution = {"project": "@", "domain": "d", "name": "e"}
    key = {"sourceTaskExecution": {"nodeExecutionId": {"executionId": execution}}}
    for data in (
        {"rawEvent": json_event("Node"), "labels": {"a": "@"}},
        {"rawEvent": json_event("Node"), "principal": "@"},
        {"rawEvent": json_event("Node"), "launchPlanId": {"resourceType": "LAUNCH_PLAN", "name": "@"}},
        {"rawEvent": json_event("Node", taskNodeMetadata={"cacheStatus": "@"})},
        {"rawEvent": json_event("Node", taskNodeMetadata={"catalogKey": key})},
        {"rawEvent": json_event("Node", outputData={"literals": {"o0": "@"}})},
    ):
        _read_or_refuse(json.dumps(data).replace('"@"', deep).encode(), Encoding.NODE_JSON)


def _read_or_refuse(body: bytes, encoding: Encoding = Encoding.WORKFLOW_JSON) -> None:
    with contextlib.suppress(*EXPECTED):
        read_facts(encoding, body)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=()), max_size=8),
        st.sampled_from(["TASK", "CACHE_HIT", "2026-11-20T23:27:57Z", "2026-99-99T99:99:99Z", "9999-12-31T23:59:59Z"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["literals", "scalar", "collection", "map", "union", "value", "blob", "uri", "catalogKey", "name",
                     "sourceTaskExecution", "nodeExecutionId", "executionId", "nodeId", "cacheStatus", "resourceType"]
                ),
                st.text(max_size=4),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)  # fmt: skip
MEMBERS = (
    "phase", "occurredAt", "specNodeId", "nodeName", "parentNodeMetadata", "retryGroup", "targetEntity", "inputUri",
    "outputUri", "inputData", "outputData", "taskNodeMetadata", "workflowNodeMetadata", "isDynamic", "isArray",
    "eventVersion", "retryAttempt", "taskType", "taskId",
)  # fmt: skip


@unhurried
@given(
    kind=st.sampled_from(KINDS),
    fields=st.dictionaries(st.sampled_from(MEMBERS), json_values, max_size=3),
    enrichment=st.dictionaries(st.sampled_from(["labels", "launchPlanId", "principal"]), json_values, max_size=2),
)
def test_any_decoded_json_is_read_or_refused_as_documented(
    kind: Kind, fields: dict[str, Any], enrichment: dict[str, Any]
) -> None:
    readable(v2(kind, json_event(kind, **fields), **enrichment))


@unhurried
@given(st.sampled_from(["covid", "caching", "inline/map"]), st.data())
def test_any_damaged_protobuf_is_read_or_refused_as_documented(case: str, data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(decoded(case, "external")))
    at = data.draw(st.integers(0, len(event.body) - 1))
    damaged = event.body[:at] + bytes([data.draw(st.integers(0, 255))]) + event.body[at + 1 :]
    for kind in KINDS:
        readable(external(kind, damaged))

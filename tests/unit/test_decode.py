"""Every wire format of Flyte's events, and everything else that a queue can hold."""

from __future__ import annotations

import base64
import json
import string
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from flyteidl.admin import event_pb2
from flyteidl.core import identifier_pb2
from hypothesis import given
from hypothesis import strategies as st

from flytelineage.errors import DecodeError
from flytelineage.events import Encoding, Event, Mark, decode
from tests.support.corpus import Publisher, cases
from tests.support.events import (
    KINDS,
    PUBLISHERS,
    V1_TYPE,
    V2_TYPE,
    Kind,
    bodies,
    cloudevent,
    cloudevent_parts,
    decoded,
    envelope,
    external,
    json_event,
    length_field,
    raw,
    recording_names,
    request,
    structured,
    subject,
    unhurried,
    v2,
)

PROTOBUF = {
    "Workflow": Encoding.WORKFLOW_PROTOBUF,
    "Node": Encoding.NODE_PROTOBUF,
    "Task": Encoding.TASK_PROTOBUF,
}
JSON = {"Workflow": Encoding.WORKFLOW_JSON, "Node": Encoding.NODE_JSON, "Task": Encoding.TASK_JSON}
RECORDED = [pytest.param(case, publisher, id=f"{case}-{publisher}") for case in cases() for publisher in PUBLISHERS]


def envelopes(case: str, publisher: Publisher) -> list[dict[str, Any]]:
    return [json.loads(body) for body in bodies(case, publisher)]


def kind_of(name: str) -> Kind:
    return next(kind for kind in KINDS if f"{kind}Execution" in name)


def outcome(body: str) -> Event | None:
    """The event, or None for what is refused; any other exception is a failure."""
    try:
        return decode(body)
    except DecodeError:
        return None


def refusal(body: str) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(body)
    reason = str(caught.value)
    assert 0 < len(reason) <= 300
    assert reason.isascii()
    assert reason.isprintable()
    return reason


# -- recorded messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases())
def test_sns_envelope_with_a_protobuf_request(case: str) -> None:
    for body in envelopes(case, "external"):
        event = decode(json.dumps(body))
        assert event.encoding == PROTOBUF[kind_of(body["Subject"])]
        assert event.body == base64.b64decode(body["Message"])
        assert event.execution.startswith("/flytesnacks/")


@pytest.mark.parametrize("case", cases())
def test_sns_envelope_with_a_protobuf_cloudevent_v1_or_v2(case: str) -> None:
    for body in envelopes(case, "cloudevents"):
        event = decode(json.dumps(body))
        event_type, data = cloudevent_parts(base64.b64decode(body["Message"]))
        assert event.encoding == JSON[kind_of(event_type)]
        assert event.body == data


@pytest.mark.parametrize(("case", "publisher"), RECORDED)
def test_the_events_of_a_case_are_filed_under_its_executions(case: str, publisher: Publisher) -> None:
    assert {event.execution for event in decoded(case, publisher)} == {f"/{name}" for name in recording_names(case)}


def test_cloudevents_v1_come_under_the_subject_of_external_events() -> None:
    """So that the subject decides nothing (flyte-events.md 0); else the test above would show less than it says."""
    subjects = {body["Subject"] for body in envelopes("cloudevents-v1/covid", "cloudevents")}
    assert subjects == {subject(kind) for kind in KINDS}


@pytest.mark.parametrize(("case", "publisher"), RECORDED)
def test_raw_delivery_decides_by_content_as_the_subject_does(case: str, publisher: Publisher) -> None:
    for body in envelopes(case, publisher):
        assert decode(body["Message"]) == decode(json.dumps(body))


@pytest.mark.parametrize("case", cases())
def test_exactly_one_kind_ever_fits(case: str) -> None:
    for body in envelopes(case, "external"):
        fitting = [kind for kind in KINDS if outcome(envelope(body["Message"], subject(kind))) is not None]
        assert fitting == [kind_of(body["Subject"])]


@pytest.mark.parametrize("case", cases())
def test_cloudevents_json_in_structured_mode(case: str) -> None:
    for body in envelopes(case, "cloudevents"):
        event_type, data = cloudevent_parts(base64.b64decode(body["Message"]))
        expected = decode(json.dumps(body))
        as_bytes = structured(event_type, data)
        assert decode(as_bytes) == expected
        assert decode(envelope(as_bytes, "any")) == expected
        as_text = structured(event_type, data.decode())
        assert decode(as_text) == expected
        as_json = structured(event_type, json.loads(data))
        assert decode(as_json)[:3] == expected[:3]
        assert decode(envelope(as_json, None)) == decode(as_json)
        assert json.loads(decode(as_json).body) == json.loads(data)


def test_structured_data_has_the_same_bytes_whatever_the_order_of_its_members() -> None:
    """The event key is a hash of these bytes: redelivery must not make two of one."""
    event = json_event("Node")
    turned = dict(reversed(event.items()))
    assert decode(v2("Node", event)).body == decode(v2("Node", turned)).body


def test_binary_data_may_travel_as_text() -> None:
    data = json.dumps({"rawEvent": json_event("Task")}).encode()
    message = cloudevent(V2_TYPE.format("Task"), data)
    as_text = message.replace(length_field(6, data), length_field(7, data))
    assert as_text != message
    assert decode(raw(as_text)) == decode(raw(message))


# -- ids and marks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_org_is_part_of_the_execution(kind: Kind) -> None:
    assert decode(external(kind, request(kind, org="o"))).execution == "o/p/d/e"
    assert decode(external(kind, request(kind))).execution == "/p/d/e"


@pytest.mark.parametrize(
    ("phase", "mark"),
    [
        ("QUEUED", Mark.NONE),
        ("RUNNING", Mark.NONE),
        ("SUCCEEDING", Mark.END_NODE),
        ("FAILING", Mark.NONE),
        ("ABORTING", Mark.NONE),
        ("SUCCEEDED", Mark.TERMINAL),
        ("FAILED", Mark.TERMINAL),
        ("ABORTED", Mark.TERMINAL),
        ("TIMED_OUT", Mark.TERMINAL),
    ],
)
def test_a_workflow_event_marks_the_end(phase: str, mark: Mark) -> None:
    assert decode(external("Workflow", request("Workflow", phase=phase))).mark == mark
    assert decode(v2("Workflow", json_event("Workflow", phase=phase))).mark == mark


@pytest.mark.parametrize(
    ("node_id", "phase", "mark"),
    [
        ("end-node", "SUCCEEDED", Mark.END_NODE),
        ("end-node", "QUEUED", Mark.NONE),
        ("n2-0-end-node", "SUCCEEDED", Mark.NONE),
        ("n0", "SUCCEEDED", Mark.NONE),
    ],
)
def test_only_the_top_level_end_node_marks_the_end(node_id: str, phase: str, mark: Mark) -> None:
    assert decode(external("Node", request("Node", node_id=node_id, phase=phase))).mark == mark
    identifier = {"nodeId": node_id, "executionId": {"project": "p", "domain": "d", "name": "e"}}
    assert decode(v2("Node", json_event("Node", id=identifier, phase=phase))).mark == mark


# -- deciding by content, whatever the ids ---------------------------------------------------------------------------


def _as_text(message: Any) -> str:
    data: bytes = message.SerializeToString()
    return data.decode("ascii")


SERIALISED = (
    _as_text(identifier_pb2.WorkflowExecutionIdentifier(project="a", domain="b", name="c")),
    _as_text(
        identifier_pb2.NodeExecutionIdentifier(
            node_id="n0",
            execution_id=identifier_pb2.WorkflowExecutionIdentifier(project="a", domain="b", name="c"),
        )
    ),
    _as_text(identifier_pb2.Identifier(resource_type=1, project="a", domain="b", name="c", version="v")),
    _as_text(event_pb2.WorkflowExecutionEventRequest()) or "\x0a\x00",
    '"\x01c',
    "\x08\x01",
)
"""Texts that are serialised messages of Flyte's own."""


def same_as_by_subject(kind: Kind, data: bytes) -> bool:
    by_content = outcome(raw(data))
    return by_content is None or by_content == outcome(external(kind, data))


@pytest.mark.parametrize("text", SERIALISED)
@pytest.mark.parametrize("field", ["project", "domain", "name", "node_id", "task_name"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_id_that_is_a_serialised_message_is_never_taken_for_one(kind: Kind, field: str, text: str) -> None:
    fields: dict[str, Any] = {field: text}
    assert same_as_by_subject(kind, request(kind, **fields))


names = st.one_of(
    st.sampled_from(SERIALISED),
    st.text(string.printable, min_size=1, max_size=12),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
)


@unhurried
@given(kind=st.sampled_from(KINDS), org=names, project=names, domain=names, name=names, node_id=names, task_name=names)
def test_raw_delivery_is_never_another_event_than_by_subject(kind: Kind, **ids: Any) -> None:
    """With all its ids, that is: a workflow event without a name may be a node event's very bytes."""
    assert same_as_by_subject(kind, request(kind, **ids))


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "",
        " \n\t",
        "not json, not base64!",
        "null",
        "1",
        "true",
        '"text"',
        "[]",
        "{}",
        '{"Records": []}',
        '{"Message": 5}',
        '{"Message": null, "Subject": "x"}',
        '{"Message": ""}',
        '{"Message": "", "Subject": "flyteidl.admin.NodeExecutionEventRequest"}',
        '{"Message": "{}"}',
        '{"Message": "{"}',
        '{"Message": "[]"}',
        '{"specversion": "1.0"}',
        '{"specversion": "1.0", "type": 5, "data": {}}',
        '{"specversion": "1.0", "type": [], "data_base64": "e30="}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution"}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data": null}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data": []}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data": "{"}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data": {"rawEvent": 1}}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data_base64": "!"}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data_base64": null}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data_base64": {}}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data_base64": "/w=="}',
        '{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.ExecutionStart", "data": {}}',
        '{"Type": "SubscriptionConfirmation", "Message": "You have chosen to subscribe", "Token": "t"}',
        '{"Type": [], "Message": "x"}',
        "\ufeff{}",
        "AAAA",
        "\ud800",
        '"\\ud800"',
        '{"Message": "\\ud800", "Subject": "\\udfff"}',
        '{"\\ud800": 1}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"Message": ' * 50_000,
        "9" * 100_000,
        '{"specversion": ' + "9" * 100_000 + "}",
        "-" * 1_048_576,
        "A" * 1_048_576,
        "{" * 1_048_576,
        '"' + "x" * 1_048_574 + '"',
        json.dumps({"Message": "A" * 1_000_000, "Subject": subject("Node")}),
        json.dumps({"x" * 1_000_000: 1}),
        json.dumps({"Message": "AAAA", "Subject": "s" * 1_000_000}),
        json.dumps({"specversion": "1.0", "type": "t" * 1_000_000, "data": {}}),
    ],
    ids=lambda body: ascii(body)[1:60],
)
def test_anything_else_is_refused_with_a_bounded_reason(body: str) -> None:
    refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{{"Message": "x", "Type": {}}}',
        '{{"Message": "QUJD", "Subject": {}}}',
        '{{"specversion": "1.0", "type": {}}}',
        '{{"specversion": "1.0", "type": "x", "data": {}}}',
        '{{"specversion": "1.0", "type": "com.flyte.resource.cloudevents.NodeExecution", "data": {{"rawEvent": {}}}}}',
        structured(V2_TYPE.format("Workflow"), "@")
        .replace("{", "{{")
        .replace("}", "}}")
        .replace('"@"', json.dumps('{{"rawEvent": {{"executionId": {{"project": {}, "domain": "d", "name": "e"}}}}}}')),
    ],
)
def test_nesting_near_the_interpreters_limit_is_refused(body: str) -> None:
    """What json.loads just takes must not break what comes after it."""
    for depth in (*range(240, 260), *range(880, 1_030)):
        refusal(body.format("[" * depth + "]" * depth))


@pytest.mark.parametrize("message", ["%%%", "QQ", "QQ=", "Zm9v\nZm9v", "Zm9v YmFy", "é", "Zm9v_-8="])
@pytest.mark.parametrize("subject_", [subject("Node"), "", None])
def test_bad_base64_is_refused(message: str, subject_: str | None) -> None:
    assert "base64" in refusal(envelope(message, subject_))
    if message.isascii():
        assert "base64" in refusal(message)


@pytest.mark.parametrize(
    "subject_", ["", None, "flyteidl.admin.NodeExecutionEvent", "flyteidl.service.Unknown", "nodeexecution", "?" * 500]
)
def test_an_unknown_subject_is_refused_or_decided_by_content(subject_: str | None) -> None:
    data = request("Node")
    if subject_:
        assert "unknown subject" in refusal(envelope(raw(data), subject_))
    else:
        assert decode(envelope(raw(data), subject_)) == decode(external("Node", data))


def test_a_subject_that_is_no_text_is_refused() -> None:
    body = json.dumps({"Message": raw(request("Node")), "Subject": {"a": 1}})
    assert "unknown subject" in refusal(body)


@pytest.mark.parametrize("event_type", ["", "com.flyte.resource.cloudevents.ExecutionStart", "com.example.other"])
def test_an_unknown_cloudevent_type_is_refused(event_type: str) -> None:
    data = json.dumps({"rawEvent": json_event("Node")}).encode()
    refusal(structured(event_type, data))
    refusal(raw(cloudevent(event_type, data)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["project", "domain", "name"])
def test_an_event_without_its_executions_ids_is_refused(kind: Kind, missing: str) -> None:
    ids: dict[str, Any] = {missing: ""}
    refusal(external(kind, request(kind, **ids)))
    refusal(raw(request(kind, **ids)))


@pytest.mark.parametrize("value", ["", None, 5, ["x"], {"a": 1}, True, "a/b", "a\x00b", "a\nb", "\ud800", "x" * 2_000])
@pytest.mark.parametrize("kind", KINDS)
def test_json_ids_of_an_execution_are_texts_that_name_something(kind: Kind, value: Any) -> None:
    for member in ("project", "domain", "name"):
        execution = {"project": "p", "domain": "d", "name": "e", member: value}
        fields: dict[Kind, dict[str, Any]] = {
            "Workflow": {"executionId": execution},
            "Node": {"id": {"nodeId": "n0", "executionId": execution}},
            "Task": {"parentNodeExecutionId": {"nodeId": "n0", "executionId": execution}},
        }
        refusal(v2(kind, json_event(kind, **fields[kind])))


@pytest.mark.parametrize("body", ["\x00", "a/b", "a\nb", "x" * 2_000])
@pytest.mark.parametrize("kind", KINDS)
def test_protobuf_ids_that_would_break_a_key_are_refused(kind: Kind, body: str) -> None:
    refusal(external(kind, request(kind, name=body)))
    refusal(raw(request(kind, name=body)))


@pytest.mark.parametrize("node_id", ["", None, 5, ["n0"]])
def test_a_json_node_or_task_event_without_its_nodes_id_is_refused(node_id: Any) -> None:
    identifier = {"nodeId": node_id, "executionId": {"project": "p", "domain": "d", "name": "e"}}
    refusal(v2("Node", json_event("Node", id=identifier)))
    refusal(v2("Task", json_event("Task", parentNodeExecutionId=identifier)))


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_json_task_event_without_its_tasks_name_is_refused(name: Any) -> None:
    refusal(v2("Task", json_event("Task", taskId={"resourceType": "TASK", "name": name})))


def test_a_protobuf_node_or_task_event_without_its_nodes_or_tasks_id_is_refused() -> None:
    refusal(external("Node", request("Node", node_id="")))
    refusal(external("Task", request("Task", node_id="")))
    refusal(external("Task", request("Task", task_name="")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cloudevent_of_one_kind_that_holds_another_is_refused(kind: Kind) -> None:
    for other in KINDS:
        if other != kind:
            refusal(v2(kind, json_event(other)))
            refusal(structured(V1_TYPE.format(kind), {"event": json_event(other)}))


def _truncations() -> list[Any]:
    picked = []
    for case, publisher, numbers in (
        ("covid", "external", (0, 1, 2, 5, -1)),
        ("dynamic", "external", (3,)),
        ("caching", "external", (30,)),
        ("covid", "cloudevents", (0, 4, 5)),
        ("cloudevents-v1/covid", "cloudevents", (2,)),
    ):
        found = envelopes(case, publisher)  # type: ignore[arg-type]
        picked += [pytest.param(found[number], id=f"{case}-{publisher}-{number}") for number in numbers]
    return picked


@pytest.mark.parametrize("body", _truncations())
def test_every_truncation_is_refused_or_still_an_event_with_ids(body: dict[str, Any]) -> None:
    data = base64.b64decode(body["Message"])
    whole = decode(json.dumps(body))
    for end in range(len(data)):
        for text in (envelope(raw(data[:end]), body["Subject"]), raw(data[:end])):
            event = outcome(text)
            assert event is None or event.execution.count("/") == 3
            if event is not None:
                assert event.execution == whole.execution


@pytest.mark.parametrize("body", _truncations())
def test_a_truncated_text_is_refused(body: dict[str, Any]) -> None:
    text = json.dumps(body)
    for end in range(0, len(text), 7):
        assert outcome(text[:end]) is None
    message = body["Message"]
    for end in range(len(message)):
        event = outcome(envelope(message[:end], body["Subject"]))
        assert event is None or event.execution.count("/") == 3


def test_refused_ids_are_not_kept_in_memory() -> None:
    """Invariant 10: whatever is remembered of a flood of bad messages is bounded, in bytes too."""
    size = 200_000
    tracemalloc.start()
    try:
        for number in range(100):
            outcome(v2("Workflow", {"executionId": {"project": f"{number:0{size}}", "domain": "d", "name": "e"}}))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10 * size


SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "body",
    [
        SECRET,
        f'"{SECRET}"',
        json.dumps([SECRET]),
        json.dumps({"Message": SECRET}),
        json.dumps({"Message": SECRET, "Subject": subject("Node")}),
        json.dumps({"Message": base64.b64encode(SECRET.encode()).decode(), "Subject": subject("Node")}),
        json.dumps({"Message": f'{{"a": "{SECRET}"'}),
        json.dumps({"other": SECRET}),
        json.dumps({"specversion": "1.0", "type": "x", "data": SECRET}),
        json.dumps({"specversion": "1.0", "type": V2_TYPE.format("Node"), "data": {"rawEvent": {"phase": SECRET}}}),
        json.dumps({"specversion": "1.0", "type": V2_TYPE.format("Node"), "data": SECRET}),
        json.dumps({"specversion": "1.0", "type": V2_TYPE.format("Node"), "data_base64": SECRET}),
        external("Node", request("Node", node_id="", name=SECRET)),
    ],
)
def test_the_reason_holds_no_payload_data(body: str) -> None:
    reason = refusal(body)
    assert SECRET not in reason
    assert base64.b64encode(SECRET.encode()).decode()[:12] not in reason


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=()))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["Message", "Subject", "Type", "specversion", "type", "data", "data_base64", "rawEvent", "event",
                     "id", "nodeId", "executionId", "project", "domain", "name", "org", "taskId", "phase"]
                ),
                st.text(max_size=5),
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@unhurried
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_an_event_or_refused(text: str) -> None:
    assert outcome(text) is None or decode(text).execution.count("/") == 3


@unhurried
@given(json_values)
def test_any_json_is_an_event_or_refused(value: Any) -> None:
    outcome(json.dumps(value))
    outcome(envelope(json.dumps(value), "x"))


@unhurried
@given(st.binary(), st.sampled_from([*map(subject, KINDS), "", None]))
def test_any_bytes_are_an_event_or_refused(data: bytes, subject_: str | None) -> None:
    outcome(envelope(raw(data), subject_))


@unhurried
@given(st.sampled_from(KINDS), st.sampled_from([V1_TYPE, V2_TYPE]), json_values)
def test_any_json_in_a_cloudevent_is_an_event_or_refused(kind: Kind, form: str, value: Any) -> None:
    for data in (value, {"rawEvent": value}, {"event": value}):
        outcome(structured(form.format(kind), data))
        outcome(raw(cloudevent(form.format(kind), json.dumps(data).encode())))


def _flips(data: bytes) -> Sequence[bytes]:
    return [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in (0, 3, 7)]


def test_no_flipped_bit_makes_another_exception() -> None:
    for kind in KINDS:
        for data in _flips(request(kind, org="o")):
            outcome(external(kind, data))
            outcome(raw(data))

"""Events for tests: recorded ones as flytelineage reads them, and invented ones for what no recording shows.

Recorded: :func:`decoded`, :func:`facts_of`, :func:`data_of`, :func:`lineage_of` (objects from the corpus, no network).
Invented on the wire: :func:`request`, :func:`envelope`, :func:`cloudevent`, :func:`structured`.
Invented as facts: :func:`workflow`, :func:`node`, :func:`task`, and :func:`ran` for a whole node. Times are plain small
numbers: only their order matters.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from flyteidl.admin import event_pb2
from flyteidl.core import literals_pb2
from flyteidl.core.execution_pb2 import NodeExecution, TaskExecution, WorkflowExecution
from hypothesis import settings

from flytelineage.errors import ObjectUnreadableError
from flytelineage.events import Event, Facts, NodeFacts, TaskFacts, WorkflowFacts, decode, read_facts
from flytelineage.lineage.build import NodeData, build, wanted_literals
from flytelineage.lineage.fold import Tree, fold
from flytelineage.lineage.literals import data_refs, hides_data, parse_literals
from flytelineage.lineage.types import Foreign, Lineage, Made, Placed, Ref
from flytelineage.model import ExecutionId
from tests.support.corpus import CORPUS, OBJECTS, Publisher, Recording, cases

unhurried: Final = settings(deadline=None)
"""For hypothesis: a loaded machine is no defect."""

# -- recorded --------------------------------------------------------------------------------------------------------

PUBLISHERS: Final[tuple[Publisher, ...]] = ("external", "cloudevents")
FLAT_CASES: Final = (
    "caching", "covid", "covid-again", "cross-execution", "diamond", "lake-bundle", "lake-profile", "lake-publish",
    "recover", "relaunch", "retry", "scheduled", "single-task", "together", "versions",
    "cloudevents-v1/caching", "cloudevents-v1/covid", "event-version-0/caching", "event-version-0/covid",
    "inline/covid", "inline/diamond",
)  # fmt: skip
"""Cases of task nodes alone that leave lineage."""


def bodies(case: str, publisher: Publisher) -> list[str]:
    """SQS bodies of one publisher, in order of arrival."""
    lines = (CORPUS / case / f"messages.{publisher}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def decoded(case: str, publisher: Publisher) -> tuple[Event, ...]:
    """The events of a case, in order of arrival."""
    return tuple(decode(body) for body in bodies(case, publisher))


@cache
def facts_of(case: str, publisher: Publisher) -> Mapping[str, tuple[Facts, ...]]:
    """The facts of a case by execution key (``org/project/domain/name``), in order of arrival."""
    found: dict[str, list[Facts]] = {}
    for event in decoded(case, publisher):
        found.setdefault(event.execution, []).append(read_facts(event.encoding, event.body))
    return {execution: tuple(facts) for execution, facts in found.items()}


class Story(NamedTuple):
    """One recorded execution as one publisher told it."""

    case: str
    publisher: Publisher
    execution: str
    facts: tuple[Facts, ...]

    def __str__(self) -> str:
        return f"{self.case}-{self.publisher}-{self.execution.rpartition('/')[2]}"


def stories(only: Iterable[str] = (), publishers: Sequence[Publisher] = PUBLISHERS) -> list[Story]:
    """Every execution of some cases (of all: none named)."""
    return [
        Story(case, publisher, execution, facts)
        for case in only or cases()
        for publisher in publishers
        for execution, facts in facts_of(case, publisher).items()
    ]


@cache
def _object(uri: str) -> Any:
    """The recorded literal map at a URI, None when there is none."""
    path = OBJECTS / uri.removeprefix("s3://")
    if not uri.startswith("s3://") or not path.is_file():
        return None
    try:
        return parse_literals(path.read_bytes(), uri)
    except ObjectUnreadableError:
        return None


def data_of(tree: Tree) -> dict[str, NodeData]:
    """What the literals of a tree say: inline, else from the corpus, else unknown."""
    found = {}
    for item in wanted_literals(tree):
        node = tree.nodes[item.node_id]
        inputs = _object(item.input_uri) if node.inputs is None else node.inputs
        outputs = _object(item.output_uri) if node.outputs is None else node.outputs
        found[item.node_id] = NodeData(
            None if inputs is None else data_refs(inputs),
            None if outputs is None else data_refs(outputs),
            hidden=inputs is not None and hides_data(inputs),
        )
    return found


def lineage_of(execution: str, facts: Iterable[Facts]) -> Lineage | None:
    """Fold and build as the daemon does; None when there is no lineage.

    Args:
        execution: ``org/project/domain/name``.
        facts: its events.
    """
    tree = fold(facts)
    return build(execution_id(execution), tree, data_of(tree)) if tree.succeeded else None


def execution_id(key: str) -> ExecutionId:
    """The identity behind an event's execution key."""
    return ExecutionId("", *key.split("/"))


def recording_names(case: str) -> list[str]:
    """``project/domain/name`` of a case's executions."""
    return [item.name for item in Recording(case).executions()]


# -- invented, on the wire -------------------------------------------------------------------------------------------

Kind = Literal["Workflow", "Node", "Task"]
KINDS: Final[tuple[Kind, ...]] = ("Workflow", "Node", "Task")


def subject(kind: Kind) -> str:
    """The SNS Subject of ``externalEvents``."""
    return f"flyteidl.admin.{kind}ExecutionEventRequest"


def request(
    kind: Kind,
    *,
    org: str = "",
    project: str = "p",
    domain: str = "d",
    name: str = "e",
    node_id: str = "n0",
    task_name: str = "m.make",
    phase: str = "SUCCEEDED",
    seconds: int = 1_800_000_000,
) -> bytes:
    """The protobuf of an admin request."""
    if kind == "Workflow":
        message = event_pb2.WorkflowExecutionEventRequest()
        identifier = message.event.execution_id
        message.event.phase = WorkflowExecution.Phase.Value(phase)
    elif kind == "Node":
        message = event_pb2.NodeExecutionEventRequest()
        message.event.id.node_id = message.event.spec_node_id = node_id
        identifier = message.event.id.execution_id
        message.event.phase = NodeExecution.Phase.Value(phase)
    else:
        message = event_pb2.TaskExecutionEventRequest()
        task_id = message.event.task_id
        task_id.resource_type, task_id.name, task_id.version = 1, task_name, "v1"
        message.event.parent_node_execution_id.node_id = node_id
        identifier = message.event.parent_node_execution_id.execution_id
        message.event.phase = TaskExecution.Phase.Value(phase)
    identifier.org, identifier.project, identifier.domain, identifier.name = org, project, domain, name
    message.event.occurred_at.seconds = seconds
    data: bytes = message.SerializeToString()
    return data


def envelope(message: str, subject_: str | None) -> str:
    """The SNS envelope, as SQS delivers it."""
    body = {"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": message, "Subject": subject_}
    return json.dumps(body)


def external(kind: Kind, data: bytes) -> str:
    """An ``externalEvents`` message with its envelope."""
    return envelope(base64.b64encode(data).decode(), subject(kind))


def raw(data: bytes) -> str:
    """The same without: raw message delivery."""
    return base64.b64encode(data).decode()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def length_field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def cloudevent(event_type: str, data: bytes) -> bytes:
    """A protobuf CloudEvent, put together by hand from the specification (not by the code under test)."""
    parts = ((1, b"id"), (2, b"/source"), (3, b"1.0"), (4, event_type.encode()), (6, data))
    return b"".join(length_field(number, value) for number, value in parts)


def cloudevent_parts(message: bytes) -> tuple[str, bytes]:
    """Type and data of a recorded protobuf CloudEvent, read by hand."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        assert tag & 7 == 2, "every field that Flyte sets is length-delimited"
        size, at = _read_varint(message, at)
        fields[tag >> 3] = message[at : at + size]
        at += size
    return fields[4].decode(), fields[6]


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


V2_TYPE: Final = "com.flyte.resource.cloudevents.{}Execution"
V1_TYPE: Final = "com.flyte.resource.flyteidl.admin.{}ExecutionEventRequest"


def structured(event_type: str, data: Any) -> str:
    """A CloudEvent as JSON in structured mode: bytes become ``data_base64``, all else ``data``."""
    member = {"data_base64": base64.b64encode(data).decode()} if isinstance(data, bytes) else {"data": data}
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": event_type, **member})


def json_event(kind: Kind, **fields: Any) -> dict[str, Any]:
    """An event as Flyte's JSON has it, its ids ``p/d/e``, ``n0``, ``m.make``; ``fields`` replace or add."""
    execution = {"project": "p", "domain": "d", "name": "e"}
    ids: dict[Kind, dict[str, Any]] = {
        "Workflow": {"executionId": execution},
        "Node": {"id": {"nodeId": "n0", "executionId": execution}, "specNodeId": "n0"},
        "Task": {
            "taskId": {"resourceType": "TASK", "project": "p", "domain": "d", "name": "m.make", "version": "v1"},
            "parentNodeExecutionId": {"nodeId": "n0", "executionId": execution},
        },
    }
    return {**ids[kind], "phase": "SUCCEEDED", "occurredAt": "2026-11-20T23:27:57.130325466Z", **fields}


def v2(kind: Kind, event: Mapping[str, Any], **enrichment: Any) -> str:
    """A CloudEvents v2 message in structured mode."""
    return structured(V2_TYPE.format(kind), {"rawEvent": event, **enrichment})


# -- invented, as facts ----------------------------------------------------------------------------------------------

Data = Any
"""A URI (of a structured dataset), or a collection or a map of them, or a literal."""


def literal(value: Data) -> Any:
    """A Literal that carries some URIs."""
    if isinstance(value, str):
        found = literals_pb2.Literal()
        found.scalar.structured_dataset.uri = value
        found.scalar.structured_dataset.metadata.structured_dataset_type.format = "parquet"
        return found
    if isinstance(value, Mapping):
        found = literals_pb2.Literal()
        found.map.SetInParent()
        for key, item in value.items():
            found.map.literals[key].CopyFrom(literal(item))
        return found
    if isinstance(value, literals_pb2.Literal):
        return value
    found = literals_pb2.Literal()
    found.collection.SetInParent()
    found.collection.literals.extend(literal(item) for item in value)
    return found


def literals(values: Mapping[str, Data]) -> Any:
    """A LiteralMap."""
    found = literals_pb2.LiteralMap()
    for variable, value in values.items():
        found.literals[variable].CopyFrom(literal(value))
    return found


def workflow(phase: str = "SUCCEEDED", at: int = 1_000, **more: Any) -> Facts:
    """A workflow event's facts."""
    return WorkflowFacts(phase, at, **more)


def node(
    node_id: str,
    phase: str = "SUCCEEDED",
    at: int = 100,
    *,
    inputs: Mapping[str, Data] | None = None,
    outputs: Mapping[str, Data] | None = None,
    **more: Any,
) -> Facts:
    """A node event's facts: a task node ``m.make@v1`` unless ``more`` says otherwise."""
    fields: dict[str, Any] = {
        "spec_id": node_id, "name": "", "parent": "", "retry_group": "", "task_name": "m.make", "task_version": "v1",
        "input_uri": "", "output_uri": "", "cache_status": "", "source_execution": "", "child_execution": "",
        "is_dynamic": False, "is_array": False, "event_version": 1,
    }  # fmt: skip
    return NodeFacts(
        node_id=node_id,
        phase=phase,
        at=at,
        inputs=None if inputs is None else literals(inputs),
        outputs=None if outputs is None else literals(outputs),
        **{**fields, **more},
    )


def sparse(node_id: str, phase: str = "ABORTED", at: int = 100) -> Facts:
    """The event that propeller makes by hand: id, phase, time, nothing else (flyte-events.md 2.1)."""
    return node(node_id, phase, at, spec_id="", task_name="", task_version="", event_version=0)


def task(node_id: str, phase: str = "SUCCEEDED", at: int = 100, attempt: int = 0, **more: Any) -> Facts:
    """A task event's facts."""
    fields: dict[str, Any] = {
        "task_name": "m.make", "task_version": "v1", "task_type": "python-task", "input_uri": "", "output_uri": "",
        "inputs": None, "outputs": None,
    }  # fmt: skip
    return TaskFacts(node_id=node_id, phase=phase, at=at, attempt=attempt, **{**fields, **more})


def ran(
    node_id: str,
    start: int = 10,
    end: int = 20,
    *,
    inputs: Mapping[str, Data] | None = None,
    outputs: Mapping[str, Data] | None = None,
    queued: int | None = None,
    **more: Any,
) -> list[Facts]:
    """A node from QUEUED (a moment before ``start``) over RUNNING to SUCCEEDED.

    Args:
        node_id: unique id, and spec id unless ``more`` says otherwise.
        start: RUNNING's time.
        end: SUCCEEDED's time.
        inputs: None: unknown.
        outputs: None: unknown.
        queued: QUEUED's time.
        more: fields of :class:`NodeFacts` on every event.
    """
    return [
        node(node_id, "QUEUED", start - 1 if queued is None else queued, inputs=inputs, **more),
        node(node_id, "RUNNING", start, **more),
        node(node_id, "SUCCEEDED", end, outputs=outputs, **more),
    ]


def took(node_id: str, at: int = 10, *, phase: str = "SUCCEEDED", **more: Any) -> list[Facts]:
    """A cache hit (or with ``phase="RECOVERED"`` a recovered node): its one event."""
    return [node(node_id, phase, at, cache_status="CACHE_HIT" if phase == "SUCCEEDED" else "", **more)]


def lineage(facts: Iterable[Facts], *, name: str = "run-1", done: bool = True) -> Lineage:
    """The lineage of an invented execution ``p/d/<name>``; ``done`` adds its SUCCEEDED."""
    found = lineage_of(f"/p/d/{name}", [*facts, *([workflow()] if done else [])])
    assert found is not None, "the execution succeeded and ran a task"
    return found


def raw_uri(writer: str, salt: str = "", *, bucket: str = "my-s3-bucket") -> str:
    """A raw-output URI whose segment is ``writer``, such as ``run-1-n0-0`` (or a hash)."""
    return f"s3://{bucket}/data/ab/{writer}/{uuid.uuid5(uuid.NAMESPACE_URL, writer + salt).hex}"


# -- what a lineage says, in a form to compare ------------------------------------------------------------------------


def label(ref: Ref) -> str:
    """``n0.o0`` for a made dataset (spec path and variable), ``s3:lake/x`` for a placed one, ``?uri`` for a foreign."""
    if isinstance(ref, Made):
        return f"{ref.key.path}.{ref.variable}"
    if isinstance(ref, Placed):
        return f"{ref.platform}:{ref.name}"
    return f"?{ref.uri}"


def wrote(found: Lineage) -> dict[str, set[str]]:
    """By spec path of the Task: the datasets that it wrote."""
    return {
        item.key.path: {label(output.ref) for run in item.runs for output in run.outputs if not output.handed_on}
        for item in found.tasks
    }


def handed_on(found: Lineage) -> dict[str, set[str]]:
    """By spec path of the Task: the datasets that it returned without having written them."""
    return {
        item.key.path: {label(output.ref) for run in item.runs for output in run.outputs if output.handed_on}
        for item in found.tasks
    }


def read(found: Lineage) -> dict[str, set[str]]:
    """By spec path of the Task: the datasets that it read."""
    return {item.key.path: {label(entry.ref) for run in item.runs for entry in run.inputs} for item in found.tasks}


def upstream(found: Lineage) -> dict[str, set[str]]:
    """By spec path of the Task: those of the tasks before it."""
    return {item.key.path: {key.path for key in item.upstream} for item in found.tasks}


Edge = tuple[str, tuple[str, str, str], object]


def edges(found: Lineage | None) -> set[Edge]:
    """Every edge of every Task: what it read, what it wrote, what stands before it."""
    result: set[Edge] = set()
    for item in found.tasks if found is not None else ():
        result.update(("input", item.key, _identity(entry.ref)) for run in item.runs for entry in run.inputs)
        result.update(
            ("output", item.key, _identity(entry.ref)) for run in item.runs for entry in run.outputs
            if not entry.handed_on
        )  # fmt: skip
        result.update(("upstream", item.key, tuple(key)) for key in (*item.upstream, *item.inferred))
    return result


def _identity(ref: Ref) -> tuple[object, ...]:
    if isinstance(ref, Foreign):
        return ("foreign", ref.uri)  # its stand-in is a name for it, no other dataset
    return (type(ref).__name__, *ref)

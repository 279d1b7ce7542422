"""One message body to one event, knowing only the wire (flyte-events.md 0 and 4).

What arrives is one of

- an SNS envelope whose ``Message`` is base64 of a ``flyteidl.admin.*ExecutionEventRequest`` (``externalEvents``);
- the same with a protobuf ``CloudEvent`` that holds JSON (``cloudEvents``, v1 and v2; v1 comes under the very Subject
  of external events, so the payload decides, never the Subject alone);
- either without the envelope (raw message delivery: the type's name is lost and found again by content);
- a CloudEvent as JSON in structured mode (``data`` or ``data_base64``), bare or inside an envelope.

Decoding looks at no more than it needs to file the event: the execution, the kind and whether it can settle the
execution. The event's own bytes are kept as received; :mod:`flytelineage.events.facts` reads the rest when the
execution is derived.
"""

from __future__ import annotations

import base64
import binascii
import re
import reprlib
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson
from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.core.execution_pb2 import NodeExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import TASK
from google.protobuf.message import DecodeError as ProtobufDecodeError

from flytelineage.errors import DecodeError
from flytelineage.events.cloudevents import read_cloudevent


class Encoding(IntEnum):
    """How an event's bytes are to be read. Stored with them: never renumber."""

    WORKFLOW_PROTOBUF = 1
    NODE_PROTOBUF = 2
    TASK_PROTOBUF = 3
    WORKFLOW_JSON = 4
    NODE_JSON = 5
    TASK_JSON = 6


class Mark(IntEnum):
    """What an event says about its execution's end. Stored, and joined by ``max``: never renumber."""

    NONE = 0
    END_NODE = 1
    """The top-level end-node is done (or the workflow is SUCCEEDING): success, should SUCCEEDED itself be lost."""
    TERMINAL = 2
    """The workflow has reached a terminal phase."""


class Event(NamedTuple):
    """A decoded event.

    Attributes:
        execution: ``org/project/domain/name``; org is mostly empty.
        encoding: how to read ``body``.
        mark: what it says about the execution's end.
        body: the event's own bytes: the protobuf, or the CloudEvent's data.
    """

    execution: str
    encoding: Encoding
    mark: Mark
    body: bytes


_WORKFLOW_MARKS: Final = {
    WorkflowExecution.SUCCEEDING: Mark.END_NODE,
    WorkflowExecution.SUCCEEDED: Mark.TERMINAL,
    WorkflowExecution.FAILED: Mark.TERMINAL,
    WorkflowExecution.ABORTED: Mark.TERMINAL,
    WorkflowExecution.TIMED_OUT: Mark.TERMINAL,
}
_WORKFLOW_MARKS_BY_NAME: Final = {WorkflowExecution.Phase.Name(p): m for p, m in _WORKFLOW_MARKS.items()}
_END_NODE: Final = "end-node"

_KINDS: Final = ("Workflow", "Node", "Task")
_REQUESTS: Final = (WorkflowExecutionEventRequest, NodeExecutionEventRequest, TaskExecutionEventRequest)
_SUBJECTS: Final = {f"flyteidl.admin.{kind}ExecutionEventRequest": kind for kind in _KINDS}
_CLOUDEVENT_TYPES: Final = {
    f"com.flyte.resource.flyteidl.admin.{kind}ExecutionEventRequest": (kind, "event") for kind in _KINDS
} | {f"com.flyte.resource.cloudevents.{kind}Execution": (kind, "rawEvent") for kind in _KINDS}

# A key that holds a slash, a control character or a lone surrogate is nothing that Flyte names an execution.
_MAX_SHOWN: Final = 160
_REPR: Final = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 8, 4
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100
_KEY: Final = re.compile(r"[^/\x00-\x1f\x7f\ud800-\udfff]*(?:/[^/\x00-\x1f\x7f\ud800-\udfff]+){3}")
_MAX_KEY = 1_000

# An enum's member is slow to get at in a hot path.
_NONE: Final = Mark.NONE
_ENDED_WELL: Final = Mark.END_NODE
(_WORKFLOW_PROTOBUF, _NODE_PROTOBUF, _TASK_PROTOBUF, _WORKFLOW_JSON, _NODE_JSON, _TASK_JSON) = Encoding

_LEN_FIELD_1: Final = 0x0A
"""First byte of a protobuf CloudEvent (``id``, always set). Flyte's requests start with field 2: it never sets 1."""


def decode(body: str) -> Event:
    """Decode one message body.

    Args:
        body: the text as the queue delivered it; anything, up to SQS's 1 MiB.

    Returns:
        The one event that a message carries.

    Raises:
        DecodeError: it is no Flyte event; the text is a reason for a person, bounded, without payload data.
    """
    try:
        message = orjson.loads(body)
    except ValueError:
        return _decode_text(body.strip(), "")
    if not isinstance(message, dict):
        msg = f"JSON of another shape: a {type(message).__name__} where an SNS envelope or a CloudEvent was expected"
        raise DecodeError(msg)
    text = message.get("Message")
    if isinstance(text, str):
        if message.get("Type", "Notification") != "Notification":
            msg_0 = f"an SNS {_short(message['Type'])}, not a notification"
            raise DecodeError(msg_0)
        return _decode_text(text, message.get("Subject"))
    return _decode_structured(message)


def _decode_text(text: str, subject: Any) -> Event:
    """Decode what stands in an envelope, or alone: base64, or a CloudEvent as JSON."""
    if text[:1] == "{":
        try:
            message = orjson.loads(text)
        except ValueError as error:
            msg = "not JSON, though it begins like it"
            raise DecodeError(msg) from error
        return _decode_structured(message)
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError("neither JSON nor base64" if subject == "" else "the Message is not base64") from error
    if not data:
        msg = "empty"
        raise DecodeError(msg)
    if data[0] == _LEN_FIELD_1:
        cloudevent = read_cloudevent(data)
        if cloudevent is not None:
            return _decode_cloudevent_data(*cloudevent)
    if subject:
        kind = _SUBJECTS.get(subject) if isinstance(subject, str) else None
        if kind is None:
            msg = f"unknown subject {_short(subject)}"
            raise DecodeError(msg)
        return _decode_request(kind, data)
    return _decode_by_content(data)


def _decode_request(kind: str, data: bytes) -> Event:
    """Decode the protobuf of a named request."""
    try:
        event = _DECODERS[kind](data)
    except ProtobufDecodeError as error:
        msg = f"not a {kind}ExecutionEventRequest: the protobuf does not parse"
        raise DecodeError(msg) from error
    return _checked(event, f"a {kind}ExecutionEventRequest")


def _checked(event: Event | None, what: str) -> Event:
    """The event, when it has its ids and they can be some."""
    if event is None:
        msg = f"{what} without the ids of its execution, node or task"
        raise DecodeError(msg)
    if len(event.execution) > _MAX_KEY or not _is_key(event.execution):
        msg = f"{what} whose execution's ids name none: {_short(event.execution)}"
        raise DecodeError(msg)
    return event


def _decode_by_content(data: bytes) -> Event:
    """Decode a request whose type's name is lost (raw message delivery).

    The three requests put strings, messages and numbers at the same field numbers, so that bytes of one, read as
    another, miss an id that is always there: exactly one reading has all its ids.
    """
    found: list[Event] = []
    for kind in _KINDS:
        try:
            event = _DECODERS[kind](data)
        except ProtobufDecodeError:
            continue
        if event is not None:
            found.append(event)
    if len(found) != 1:
        raise DecodeError("no Flyte event: " + ("no kind of event fits" if not found else "several kinds of event fit"))
    return _checked(found[0], "an event")


def _decode_workflow(data: bytes) -> Event | None:
    event = WorkflowExecutionEventRequest.FromString(data).event
    mark = _WORKFLOW_MARKS.get(event.phase, _NONE)
    return _event(event.execution_id, _WORKFLOW_PROTOBUF, mark, data)


def _decode_node(data: bytes) -> Event | None:
    event = NodeExecutionEventRequest.FromString(data).event
    identifier = event.id
    if not identifier.node_id:
        return None
    ended = identifier.node_id == _END_NODE and event.phase == NodeExecution.SUCCEEDED
    return _event(identifier.execution_id, _NODE_PROTOBUF, _ENDED_WELL if ended else _NONE, data)


def _decode_task(data: bytes) -> Event | None:
    event = TaskExecutionEventRequest.FromString(data).event
    task, node = event.task_id, event.parent_node_execution_id
    if task.resource_type != TASK or not task.name or not node.node_id:
        return None
    return _event(node.execution_id, _TASK_PROTOBUF, _NONE, data)


_DECODERS: Final = {"Workflow": _decode_workflow, "Node": _decode_node, "Task": _decode_task}


def _event(identifier: Any, encoding: Encoding, mark: Mark, body: bytes) -> Event | None:
    """The event, or None when its execution is not told."""
    project, domain, name = identifier.project, identifier.domain, identifier.name
    if not (project and domain and name):
        return None
    return Event(f"{identifier.org}/{project}/{domain}/{name}", encoding, mark, body)


def _decode_structured(message: dict[str, Any]) -> Event:
    """Decode a CloudEvent in structured mode (CloudEvents JSON format 1.0, section 3)."""
    if "specversion" not in message:
        msg = f"JSON of another shape: {_short(sorted(message)[:8])} is neither an SNS envelope nor a CloudEvent"
        raise DecodeError(msg)
    data: Any = message.get("data")
    if "data_base64" in message:
        try:
            return _decode_cloudevent_data(message.get("type"), base64.b64decode(message["data_base64"], validate=True))
        except (binascii.Error, ValueError, TypeError) as error:
            msg_0 = "the CloudEvent's data_base64 is not base64"
            raise DecodeError(msg_0) from error
    if isinstance(data, str):
        return _decode_cloudevent_data(message.get("type"), data.encode("utf-8", "surrogatepass"))
    # The bytes that Flyte wrote are gone; a canonical form is the nearest thing to them that is always the same.
    try:
        canonical = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        msg_0 = "the CloudEvent's data is nested too deeply"
        raise DecodeError(msg_0) from error
    return _decode_cloudevent_data(message.get("type"), canonical)


def _decode_cloudevent_data(event_type: Any, data: bytes) -> Event:
    known = _CLOUDEVENT_TYPES.get(event_type) if isinstance(event_type, str) else None
    if known is None:
        msg = f"unknown CloudEvent type {_short(event_type)}"
        raise DecodeError(msg)
    kind, member = known
    try:
        payload = orjson.loads(data)
        event = payload[member]
        result = _JSON_DECODERS[kind](event, data)
    except ValueError as error:
        msg = "the CloudEvent's data is not JSON"
        raise DecodeError(msg) from error
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"a CloudEvent {kind}Execution of another shape, or without ids"
        raise DecodeError(msg) from error
    return _checked(result, f"a CloudEvent {kind}Execution")


def _json_workflow(event: dict[str, Any], data: bytes) -> Event | None:
    mark = _WORKFLOW_MARKS_BY_NAME.get(event.get("phase", ""), _NONE)
    return _json_event(event["executionId"], _WORKFLOW_JSON, mark, data)


def _json_node(event: dict[str, Any], data: bytes) -> Event | None:
    identifier = event["id"]
    node_id = identifier["nodeId"]
    if not (isinstance(node_id, str) and node_id):
        return None
    ended = node_id == _END_NODE and event.get("phase") == "SUCCEEDED"
    return _json_event(identifier["executionId"], _NODE_JSON, _ENDED_WELL if ended else _NONE, data)


def _json_task(event: dict[str, Any], data: bytes) -> Event | None:
    node = event["parentNodeExecutionId"]
    if not all(isinstance(value, str) and value for value in (event["taskId"]["name"], node["nodeId"])):
        return None
    return _json_event(node["executionId"], _TASK_JSON, _NONE, data)


_JSON_DECODERS: Final = {"Workflow": _json_workflow, "Node": _json_node, "Task": _json_task}


def _json_event(identifier: dict[str, Any], encoding: Encoding, mark: Mark, body: bytes) -> Event | None:
    org, project = identifier.get("org", ""), identifier["project"]
    domain, name = identifier["domain"], identifier["name"]
    if not (project and domain and name and all(isinstance(value, str) for value in (org, project, domain, name))):
        return None
    return Event(f"{org}/{project}/{domain}/{name}", encoding, mark, body)


@lru_cache(maxsize=10_000)
def _is_key(key: str) -> bool:
    """Whether this may name an execution. Remembered, as an execution has many events; so the text must be short."""
    return _KEY.fullmatch(key) is not None


def _short(value: object) -> str:
    """A bounded, printable form of something untrusted."""
    return _REPR.repr(value).encode("ascii", "backslashreplace").decode()[:_MAX_SHOWN]

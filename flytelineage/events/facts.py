"""What one event says, in one form whatever its encoding.

The protobuf and the JSON of an event become the same facts here, so that everything after is written once. JSON is
read by hand: protobuf's ``json_format`` costs five times as much as the rest (flyte-events.md 0); it is used only for
literals inside events, which are rare.

Source: ``flyteidl/event/event.proto``, ``flyteidl/event/cloudevents.proto``; JSON flavour: flyte-events.md 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from flyteidl.admin.event_pb2 import (
    NodeExecutionEventRequest,
    TaskExecutionEventRequest,
    WorkflowExecutionEventRequest,
)
from flyteidl.core.catalog_pb2 import CatalogCacheStatus
from flyteidl.core.execution_pb2 import NodeExecution, TaskExecution, WorkflowExecution
from flyteidl.core.identifier_pb2 import TASK
from flyteidl.core.literals_pb2 import LiteralMap
from google.protobuf.json_format import ParseDict, ParseError

from flytelineage.events.decode import Encoding


@dataclass(slots=True)
class WorkflowFacts:
    """A workflow event; times are nanoseconds since the epoch, UTC (0: not told); an empty string is not told."""

    phase: str
    at: int
    launch_plan: str = ""
    labels: Mapping[str, str] | None = None
    principal: str = ""


@dataclass(slots=True)
class NodeFacts:
    """A node event. ``inputs`` and ``outputs`` are inline data, None when the event does not hold them."""

    node_id: str
    phase: str
    at: int
    spec_id: str
    name: str
    parent: str
    retry_group: str
    task_name: str
    task_version: str
    input_uri: str
    output_uri: str
    inputs: LiteralMap | None
    outputs: LiteralMap | None
    cache_status: str
    source_execution: str
    child_execution: str
    is_dynamic: bool
    is_array: bool
    event_version: int
    launch_plan: str = ""
    labels: Mapping[str, str] | None = None
    principal: str = ""


@dataclass(slots=True)
class TaskFacts:
    """A task event of one attempt of a node."""

    node_id: str
    phase: str
    at: int
    attempt: int
    task_name: str
    task_version: str
    task_type: str
    input_uri: str
    output_uri: str
    inputs: LiteralMap | None
    outputs: LiteralMap | None
    launch_plan: str = ""
    labels: Mapping[str, str] | None = None
    principal: str = ""


Facts = WorkflowFacts | NodeFacts | TaskFacts

_WORKFLOW_PHASES: Final = {number: name for name, number in WorkflowExecution.Phase.items()}
_NODE_PHASES: Final = {number: name for name, number in NodeExecution.Phase.items()}
_TASK_PHASES: Final = {number: name for name, number in TaskExecution.Phase.items()}
_CACHE_STATUS: Final = {number: name for name, number in CatalogCacheStatus.items()}
_NEVER: Final = 2**63
"""Nanoseconds that a database can hold: until the year 2262. A time beyond, or before 1970, is not told."""
_INPUTS_AT: Final = frozenset({"QUEUED", "RECOVERED"})
"""The node phases at which inline inputs are sent; elsewhere an empty map says nothing (flyte-events.md 3)."""


def read_facts(encoding: int, body: bytes) -> Facts:
    """Read an event that was decoded before.

    Args:
        encoding: as :func:`~flytelineage.events.decode` gave it.
        body: the event's own bytes.

    Returns:
        The facts; unknown phases keep their number as text.

    Raises:
        ValueError, TypeError, KeyError, AttributeError, google.protobuf.message.DecodeError: the event is malformed
            beyond its ids; the caller keeps it as a dead letter.
    """
    return _READERS[encoding](body)


def _workflow_protobuf(body: bytes) -> WorkflowFacts:
    event = WorkflowExecutionEventRequest.FromString(body).event
    phase = event.phase
    return WorkflowFacts(_WORKFLOW_PHASES.get(phase, str(phase)), _nanoseconds(event.occurred_at))


def _node_protobuf(body: bytes) -> NodeFacts:
    event = NodeExecutionEventRequest.FromString(body).event
    phase = _NODE_PHASES.get(event.phase, str(event.phase))
    cache_status = source = child = ""
    if event.HasField("workflow_node_metadata"):
        child = event.workflow_node_metadata.execution_id.name
    elif event.HasField("task_node_metadata"):
        metadata = event.task_node_metadata
        cache_status = _CACHE_STATUS.get(metadata.cache_status, "")
        identifier = metadata.catalog_key.source_task_execution.node_execution_id.execution_id
        if identifier.name:
            source = f"{identifier.project}/{identifier.domain}/{identifier.name}"
    target = event.target_entity
    is_task = target.resource_type == TASK
    inputs = outputs = None
    if event.HasField("input_data"):
        inputs = _inline_inputs(phase, event.input_data)
    if event.HasField("output_data"):
        outputs = event.output_data
    return NodeFacts(
        event.id.node_id,
        phase,
        _nanoseconds(event.occurred_at),
        event.spec_node_id,
        event.node_name,
        event.parent_node_metadata.node_id,
        event.retry_group,
        target.name if is_task else "",
        target.version if is_task else "",
        event.input_uri,
        event.output_uri,
        inputs,
        outputs,
        cache_status,
        source,
        child,
        event.is_dynamic,
        event.is_array,
        event.event_version,
    )


def _task_protobuf(body: bytes) -> TaskFacts:
    event = TaskExecutionEventRequest.FromString(body).event
    task = event.task_id
    return TaskFacts(
        event.parent_node_execution_id.node_id,
        _TASK_PHASES.get(event.phase, str(event.phase)),
        _nanoseconds(event.occurred_at),
        event.retry_attempt,
        task.name,
        task.version,
        event.task_type,
        event.input_uri,
        event.output_uri,
        _inline_inputs("", event.input_data) if event.HasField("input_data") else None,
        event.output_data if event.HasField("output_data") else None,
    )


def _workflow_json(body: bytes) -> WorkflowFacts:
    data, event = _payload(body)
    return WorkflowFacts(_text(event.get("phase", "UNDEFINED")), _timestamp(event), *_enrichment(data))


def _node_json(body: bytes) -> NodeFacts:
    data, event = _payload(body)
    phase = _text(event.get("phase", "UNDEFINED"))
    metadata = event.get("taskNodeMetadata")
    source = cache_status = ""
    catalog_key: dict[str, Any] = {}
    if metadata is not None:
        cache_status = _text(metadata.get("cacheStatus", "CACHE_DISABLED"))
        catalog_key = metadata.get("catalogKey") or {}
    if (execution := catalog_key.get("sourceTaskExecution")) is not None:
        identifier = (execution.get("nodeExecutionId") or {}).get("executionId") or {}
        if identifier.get("name"):
            source = "/".join(_text(identifier.get(part, "")) for part in ("project", "domain", "name"))
    target = event.get("targetEntity") or {}
    is_task = target.get("resourceType") == "TASK"
    inputs = event.get("inputData")
    outputs = event.get("outputData")
    return NodeFacts(
        event["id"]["nodeId"],
        phase,
        _timestamp(event),
        _text(event.get("specNodeId", "")),
        _text(event.get("nodeName", "")),
        _text((event.get("parentNodeMetadata") or {}).get("nodeId", "")),
        _text(event.get("retryGroup", "")),
        _text(target.get("name", "")) if is_task else "",
        _text(target.get("version", "")) if is_task else "",
        _text(event.get("inputUri", "")),
        _text(event.get("outputUri", "")),
        None if inputs is None else _inline_inputs(phase, _literal_map(inputs)),
        None if outputs is None else _literal_map(outputs),
        cache_status,
        source,
        _text(((event.get("workflowNodeMetadata") or {}).get("executionId") or {}).get("name", "")),
        bool(event.get("isDynamic", False)),
        bool(event.get("isArray", False)),
        int(event.get("eventVersion", 0)),
        *_enrichment(data),
    )


def _task_json(body: bytes) -> TaskFacts:
    data, event = _payload(body)
    task = event["taskId"]
    inputs = event.get("inputData")
    outputs = event.get("outputData")
    return TaskFacts(
        event["parentNodeExecutionId"]["nodeId"],
        _text(event.get("phase", "UNDEFINED")),
        _timestamp(event),
        _attempt(event.get("retryAttempt", 0)),
        task["name"],
        _text(task.get("version", "")),
        _text(event.get("taskType", "")),
        _text(event.get("inputUri", "")),
        _text(event.get("outputUri", "")),
        None if inputs is None else _inline_inputs("", _literal_map(inputs)),
        None if outputs is None else _literal_map(outputs),
        *_enrichment(data),
    )


_READERS: Final[Mapping[int, Callable[[bytes], Facts]]] = {
    Encoding.WORKFLOW_PROTOBUF: _workflow_protobuf,
    Encoding.NODE_PROTOBUF: _node_protobuf,
    Encoding.TASK_PROTOBUF: _task_protobuf,
    Encoding.WORKFLOW_JSON: _workflow_json,
    Encoding.NODE_JSON: _node_json,
    Encoding.TASK_JSON: _task_json,
}


def _payload(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The CloudEvent's data and the event in it: ``rawEvent`` in v2, ``event`` in v1."""
    data = orjson.loads(body)
    return data, data["rawEvent"] if "rawEvent" in data else data["event"]


def _enrichment(data: dict[str, Any]) -> tuple[str, Mapping[str, str] | None, str]:
    """What only v2 says: launch plan, labels, principal. A launch plan id of type TASK is a task run by itself."""
    launch_plan = data.get("launchPlanId") or {}
    is_launch_plan = launch_plan.get("resourceType") == "LAUNCH_PLAN"
    labels = data.get("labels") or None
    if labels is not None:
        labels = {_text(key): _text(value) for key, value in labels.items()}
    return _text(launch_plan.get("name", "")) if is_launch_plan else "", labels, _text(data.get("principal", ""))


def _inline_inputs(phase: str, literals: LiteralMap) -> LiteralMap | None:
    return literals if literals.literals or phase in _INPUTS_AT else None


def _literal_map(value: dict[str, Any]) -> LiteralMap:
    try:
        return ParseDict(value, LiteralMap(), ignore_unknown_fields=True)
    except (ParseError, RecursionError) as error:
        msg = "inline data is no literal map"
        raise ValueError(msg) from error


def _nanoseconds(timestamp: Any) -> int:
    nanoseconds: int = timestamp.seconds * 1_000_000_000 + timestamp.nanos
    return nanoseconds if 0 <= nanoseconds < _NEVER else 0


def _timestamp(event: dict[str, Any]) -> int:
    """``occurredAt``, RFC 3339 with 0 to 9 digits and Z, as nanoseconds."""
    text = event.get("occurredAt")
    if not text:
        return 0
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds + "+00:00").timestamp())
    nanoseconds = whole * 1_000_000_000 + (int(fraction.ljust(9, "0")[:9]) if fraction else 0)
    return nanoseconds if 0 <= nanoseconds < _NEVER else 0


def _attempt(value: Any) -> int:
    """A uint32, as the protobuf has it."""
    number = int(value)
    if not 0 <= number < 2**32:
        msg = "retryAttempt is no uint32"
        raise ValueError(msg)
    return number


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # Enums that the publisher does not know travel as numbers (flyte-events.md 4.2).
    if isinstance(value, int):
        return str(value)
    msg = f"a {type(value).__name__} where a text belongs"
    raise TypeError(msg)


__all__ = ["Facts", "NodeFacts", "TaskFacts", "WorkflowFacts", "read_facts"]

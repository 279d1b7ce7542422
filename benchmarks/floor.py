"""The floor: what any consumer of these messages must do, whatever it does then."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from flyteidl.admin import event_pb2

from benchmarks.multiply import Wire
from flytelineage.events.cloudevents import CloudEvent

_REQUESTS: Final[dict[str, Any]] = {
    f"flyteidl.admin.{name}": getattr(event_pb2, name)
    for name in ("WorkflowExecutionEventRequest", "NodeExecutionEventRequest", "TaskExecutionEventRequest")
}


def _external(bodies: Iterable[str]) -> None:
    """json.loads of the envelope, base64, protobuf parse of the request that the subject names."""
    for body in bodies:
        envelope = json.loads(body)
        _REQUESTS[envelope["Subject"]].FromString(base64.b64decode(envelope["Message"]))


def _cloudevents(bodies: Iterable[str]) -> None:
    """json.loads of the envelope, base64, protobuf parse of the CloudEvent, json.loads of its data."""
    for body in bodies:
        event = CloudEvent.FromString(base64.b64decode(json.loads(body)["Message"]))
        json.loads(event.binary_data or event.text_data)


def floor_of(wire: Wire) -> Callable[[Iterable[str]], None]:
    """The floor for messages of a wire format."""
    return _external if wire == "external" else _cloudevents

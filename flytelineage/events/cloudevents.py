"""The protobuf CloudEvent, as Flyte puts it on SNS.

No package ships ``cloudevents.proto``'s generated class, so the message is described here by hand, the fields that we
read only; protobuf skips the others. In a pool of its own: another package that registers the real file must not clash.

Source: CloudEvents protobuf format 1.0, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/cloudevents.proto
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass


def _cloudevent_class() -> Any:
    string, data = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES
    file = FileDescriptorProto(name="flytelineage/cloudevents.proto", package="io.cloudevents.v1", syntax="proto3")
    message = file.message_type.add(name="CloudEvent")
    for number, name, kind in (
        (1, "id", string),
        (2, "source", string),
        (3, "spec_version", string),
        (4, "type", string),
        (6, "binary_data", data),
        (7, "text_data", string),
    ):
        message.field.add(name=name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("io.cloudevents.v1.CloudEvent"))


CloudEvent: Final = _cloudevent_class()


def read_cloudevent(data: bytes) -> tuple[str, bytes] | None:
    """Read a protobuf CloudEvent.

    Returns:
        The CloudEvent's type and its data, or None when the bytes are no CloudEvent.
    """
    try:
        message = CloudEvent.FromString(data)
    except DecodeError:
        return None
    if not (message.spec_version and message.type):
        return None
    return message.type, message.binary_data or message.text_data.encode()

"""
OTLP traces as messages in which whatever is interned or kept as it came stays encoded.

Same bytes, another schema: it is the published one, with every message inside a span, a resource or a scope declared
as `bytes`, which protobuf's wire format permits (https://protobuf.dev/programming-guides/encoding/#structure). An
attribute is then the key of a dictionary at once, instead of a message that is read and encoded again: a span costs
less than half.
"""

from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.trace.v1 import trace_pb2

__all__ = ["EncodedTraces"]

_PACKAGE = "rsketch_dashboard.wire"
_OPENED: Final = frozenset({"resource_spans", "scope_spans", "spans"})
"""The fields whose messages are still messages: the way to the spans."""


def _schema() -> FileDescriptorProto:
    file = FileDescriptorProto()
    trace_pb2.DESCRIPTOR.CopyToProto(file)
    published = f".{file.package}."
    file.name, file.package = "rsketch_dashboard/wire.proto", _PACKAGE
    file.ClearField("dependency")
    for message in file.message_type:
        for each in (message, *message.nested_type):
            _leave_encoded(each, published)
    return file


def _leave_encoded(message: DescriptorProto, published: str) -> None:
    for field in message.field:
        if field.type == FieldDescriptorProto.TYPE_MESSAGE and field.name not in _OPENED:
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
        elif field.type_name:
            field.type_name = field.type_name.replace(published, f".{_PACKAGE}.")


def _message_class() -> Any:
    # A pool of its own: in the default one the file would stand beside the published one for the whole process.
    pool = DescriptorPool()
    pool.Add(_schema())
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.TracesData"))


EncodedTraces: Final[Any] = _message_class()
"""What an `ExportTraceServiceRequest` can be parsed as too."""

"""What protoc generates of this, made at import, so that the example needs no compiler:

message Inventory {
  repeated string items = 1;
  uint32 gold = 2;
}
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message_factory import GetMessages

_file = FileDescriptorProto(
    name="inventory.proto", package="examples.codecs", syntax="proto3"
)
_type = _file.message_type.add(name="Inventory")
_type.field.add(
    name="items", number=1, type=Field.TYPE_STRING, label=Field.LABEL_REPEATED
)
_type.field.add(name="gold", number=2, type=Field.TYPE_UINT32, label=Field.LABEL_OPTIONAL)

Inventory: Any = GetMessages([_file])["examples.codecs.Inventory"]

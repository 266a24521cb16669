"""JSON Schema (draft 2020-12) of what plain.plain() makes of a message."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

Schema = dict[str, Any]

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "number", "description": "seconds"},
}
_SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: "boolean",
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_INT32: "integer",
    FieldDescriptor.CPPTYPE_INT64: "integer",
    FieldDescriptor.CPPTYPE_UINT32: "integer",
    FieldDescriptor.CPPTYPE_UINT64: "integer",
}
_NUMBER: Schema = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}


class Definitions:
    """Schemas of messages by name, each made once, with those that they hold."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        """What `$defs` of a schema document holds."""

    def reference(self, message: Any) -> Schema:
        """The schema of a message, given by its DESCRIPTOR, as a reference."""
        if message.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[message.full_name]
        name = message.full_name.removeprefix("batchyard.v1.")
        if name not in self.schemas:
            self.schemas[name] = {}  # a message may hold itself
            self.schemas[name] = self._object(message)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, message: Any) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {field.name: self._field(field) for field in message.fields},
        }
        if always := [field.name for field in message.fields if not field.has_presence]:
            schema["required"] = always
        return schema

    def _field(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(field.message_type.fields_by_name["value"])}
        return {"type": "array", "items": self._one(field)} if field.is_repeated else self._one(field)

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return {"enum": [value.name for value in field.enum_type.values]}
        return {"type": _SCALARS[field.cpp_type]} if field.cpp_type in _SCALARS else _NUMBER

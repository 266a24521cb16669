"""Protobuf messages as JSON-ready values: proto JSON with the proto's own field names and numbers as numbers."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def plain(message: Message) -> Any:
    """A mapping with every field that is set or that has no notion of being set. Times are RFC 3339, durations seconds.

    Unlike proto JSON, 64-bit integers are numbers: ours stay below 2^53, and `jq` should be able to compare them.
    """
    if isinstance(message, Timestamp):
        return message.ToJsonString()
    if isinstance(message, Duration):
        return message.ToTimedelta().total_seconds()
    fields = [f for f in message.DESCRIPTOR.fields if not f.has_presence or message.HasField(f.name)]
    return {field.name: _value(field, getattr(message, field.name)) for field in fields}


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _one(entry, part) for key, part in sorted(value.items())}
    if field.is_repeated:
        return [_one(field, part) for part in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value

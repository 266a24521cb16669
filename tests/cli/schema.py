"""What a command's JSON must be."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from batchyard.cli.json_schema import document


def schema_of(command: str) -> Draft202012Validator:
    """For one document that the command prints: nothing is missing, nothing is there that is not documented."""
    whole = document()
    words = next(words for words in (" ".join(command.split()[:2]), command.split()[0]) if words in whole["commands"])
    return Draft202012Validator({**closed(whole["commands"][words]), "$defs": whole["$defs"]})


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "array":
        return {**schema, "items": closed(schema["items"])}
    return {**schema, "unevaluatedProperties": False} if schema.get("type") != "string" else schema

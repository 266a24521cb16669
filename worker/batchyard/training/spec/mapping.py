"""Specs from the nested mappings of job files, and back."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from batchyard.training.spec.checks import SpecError, Violation

_EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def plain(value: object) -> object:
    """The nested mapping that `build` reads, with every default filled in and no key whose value is None."""
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: plain(part) for name, part in pairs if part is not None}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return value


def build(kind: type, mapping: object, path: str, violations: list[Violation]) -> object | None:
    """Makes a `kind` from `mapping`, or adds to `violations` and returns None. `path`: where in the spec it stands."""
    if not isinstance(mapping, Mapping):
        violations.append(Violation(path or "spec", f"{mapping!r} given; expected a mapping of keys to values"))
        return None
    before = len(violations)
    prefix = f"{path}." if path else ""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    violations += [Violation(f"{prefix}{key}", _unknown(key, tuple(fields))) for key in mapping if key not in fields]
    values: dict[str, object] = {}
    for name, spec in fields.items():
        if name in mapping and mapping[name] is not None:
            values[name] = _convert(hints[name], mapping[name], f"{prefix}{name}", violations)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            violations.append(Violation(f"{prefix}{name}", "missing; this key is required"))
    if len(violations) > before:
        return None
    try:
        return typing.cast(object, kind(**values))
    except SpecError as error:
        violations += [Violation(prefix + v.field, v.description) for v in error.violations]
        return None


def _unknown(key: object, legal: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(key), legal, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(legal)}"
    return f"unknown key; {hint}"


def _convert(hint: Any, value: object, path: str, violations: list[Violation]) -> object:
    """`value` as the field's type, or a violation."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path, violations)
    if typing.get_origin(hint) is tuple:
        entry = typing.get_args(hint)[0]
        if isinstance(value, list | tuple):
            return tuple(_convert(entry, part, f"{path}[{i}]", violations) for i, part in enumerate(value))
        violations.append(Violation(path, f"{value!r} given; expected a list, each entry {_EXPECTED[entry]}"))
        return None
    if hint is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if type(value) is hint:
        return value
    violations.append(Violation(path, f"{value!r} given; expected {_EXPECTED[hint]}"))
    return None

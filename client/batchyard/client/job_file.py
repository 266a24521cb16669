"""Job files: YAML (or JSON) to a TrainingJobSpec message, with every problem found named by its path.

Keys and types are checked here, against the message's own descriptor; the service checks values and fills in defaults.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from batchyard.client.errors import FieldViolation, InvalidRequestError, JobFileError
from batchyard.v1.spec_pb2 import TrainingJobSpec

M = TypeVar("M", bound=Message)

_HINT = "Correct the job file; docs/job-spec.md lists every key."
_IN_REQUEST = "spec."
"""Where a job's keys are in the request that creates it."""

_WHOLE = {FieldDescriptor.CPPTYPE_INT32: 31, FieldDescriptor.CPPTYPE_INT64: 63}
_EXPECTED = {
    FieldDescriptor.CPPTYPE_INT32: "a whole number",
    FieldDescriptor.CPPTYPE_INT64: "a whole number",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}


def read_job(
    source: Mapping[str, Any] | str | os.PathLike[str], overrides: Iterable[tuple[str, str]] = ()
) -> TrainingJobSpec:
    """A job spec from a nested mapping, the path of a YAML file, or YAML text (a str with a line break or braces).

    `overrides` are (path, YAML value) pairs, for example ("optimizer.learning_rate", "0.5"), put in before the check.

    Raises:
        JobFileError: the file cannot be read, is not YAML, or has unknown keys or values of the wrong type.
    """
    name, mapping = _load(source)
    for path, text in overrides:
        mapping = _override(mapping, path, text)
    return _read(TrainingJobSpec(), mapping, name)


def read_message(message: M, source: Mapping[str, Any] | str | os.PathLike[str]) -> M:
    """`message` filled from a nested mapping, the path of a YAML file or YAML text, as `read_job` reads a job.

    Raises:
        JobFileError: as read_job.
    """
    name, mapping = _load(source)
    return _read(message, mapping, name)


def _read(message: M, mapping: Any, name: str) -> M:
    problems: list[FieldViolation] = []
    if mapping is None:
        raise JobFileError(f"{name}: nothing in it; expected keys and their values", hint=_HINT)
    _fill(message, mapping, "", problems)
    if problems:
        raise JobFileError(f"{name}: {'; '.join(map(str, problems))}", violations=problems, hint=_HINT)
    return message


def in_job_file(refused: InvalidRequestError) -> InvalidRequestError:
    """A refusal of a job with its keys as they stand in the job file: steps, where the request has spec.steps."""
    return InvalidRequestError(
        re.sub(rf"(^|; ){_IN_REQUEST}", r"\1", refused.message),
        code=refused.code,
        reason=refused.reason,
        metadata=refused.metadata,
        violations=[FieldViolation(v.field.removeprefix(_IN_REQUEST), v.description) for v in refused.violations],
        hint=_HINT,
    )


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML document; `name` is what errors call it. Raises JobFileError."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: no tag makes an object
    except yaml.YAMLError as error:
        place, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"{name}, line {place.line + 1}, column {place.column + 1}" if place else name
        raise JobFileError(f"{where}: not YAML: {problem}", hint="Correct that line.") from None
    except RecursionError:
        raise JobFileError(f"{name}: nested too deeply", hint=_HINT) from None
    except ValueError as error:  # a date with a 13th month, an integer of 5,000 digits
        raise JobFileError(f"{name}: not YAML: {error}", hint=_HINT) from None


def _load(source: Mapping[str, Any] | str | os.PathLike[str]) -> tuple[str, Any]:
    if isinstance(source, Mapping):
        return "job", source
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        return "job", parse_yaml(source, "job")
    path = Path(source)
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise JobFileError(f"{path}: not a text file", hint="A job file is YAML; see examples/.") from None
    except OSError as error:
        raise JobFileError(f"{path}: {error.strerror}", hint="Name a job file that exists; see examples/.") from None
    return str(path), parse_yaml(text, str(path))


def _override(mapping: Any, path: str, text: str) -> Any:
    """A copy of `mapping` with the value at the dotted path replaced; mappings on the way are made."""
    key, _, rest = path.partition(".")
    inner = dict(mapping) if isinstance(mapping, Mapping) else {}
    inner[key] = _override(inner.get(key), rest, text) if rest else parse_yaml(text, f"value of {path}")
    return inner


def _fill(message: Message, mapping: object, path: str, problems: list[FieldViolation]) -> None:
    """Sets the fields of `message` from `mapping`; what cannot be set becomes a problem. Null leaves a field unset."""
    if not isinstance(mapping, Mapping):
        expected = "a mapping of keys to values"
        problems.append(FieldViolation(path, f"{_shown(mapping)} given; expected {expected}"))
        return
    for key, value in mapping.items():
        where = f"{path}.{key}" if path else str(key)
        field = message.DESCRIPTOR.fields_by_name.get(key) if isinstance(key, str) else None
        if field is None:
            problems.append(FieldViolation(where, _unknown(key, message.DESCRIPTOR)))
        elif value is not None:
            _set(message, field, value, where, problems)


def _set(message: Any, field: Any, value: object, path: str, problems: list[FieldViolation]) -> None:
    if field.message_type is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        _fill(part, value, path, problems)
    elif not field.is_repeated:
        if not (problem := _problem(field, value)):
            setattr(message, field.name, value)
        else:
            problems.append(FieldViolation(path, problem))
    elif not isinstance(value, list | tuple):
        problems.append(FieldViolation(path, f"{_shown(value)} given; expected a list, each entry {_expected(field)}"))
    else:
        found = [(i, problem) for i, entry in enumerate(value) if (problem := _problem(field, entry))]
        problems += [FieldViolation(f"{path}[{i}]", problem) for i, problem in found]
        if not found:
            getattr(message, field.name).extend(value)


def _problem(field: Any, value: object) -> str:
    """What is wrong with `value` as one entry of `field`; empty when nothing is."""
    kind = field.cpp_type
    if kind in _WHOLE:
        fits = type(value) is int and -(2 ** _WHOLE[kind]) <= value < 2 ** _WHOLE[kind]
    elif kind == FieldDescriptor.CPPTYPE_DOUBLE:
        fits = type(value) is float or (type(value) is int and abs(value) < 2**1023)
    else:
        fits = type(value) is (str if kind == FieldDescriptor.CPPTYPE_STRING else bool)
    return "" if fits else f"{_shown(value)} given; expected {_expected(field)}"


def _expected(field: Any) -> str:
    words = _EXPECTED[field.cpp_type]
    bits = _WHOLE.get(field.cpp_type)
    return f"{words} below 2^{bits}" if bits else words


def _unknown(key: object, descriptor: Any) -> str:
    """Names the nearest legal key, here or, failing that, anywhere in the spec."""
    here = list(descriptor.fields_by_name)
    if near := difflib.get_close_matches(str(key).lower(), here, n=1):
        return f"unknown key; did you mean {near[0]!r}?"
    elsewhere = {path.rpartition(".")[2]: path for path in reversed(_paths(TrainingJobSpec.DESCRIPTOR))}
    if near := difflib.get_close_matches(str(key).lower(), elsewhere, n=1, cutoff=0.8):
        return f"unknown key here; did you mean {elsewhere[near[0]]!r}?"
    return f"unknown key; the keys here are {', '.join(here)}"


def _paths(descriptor: Any, path: str = "") -> list[str]:
    """The dotted path of every field, outer ones first."""
    here = [f"{path}{name}" for name in descriptor.fields_by_name]
    inner = [p for f in descriptor.fields if f.message_type for p in _paths(f.message_type, f"{path}{f.name}.")]
    return here + inner


def _shown(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


class _Loader(yaml.SafeLoader):
    """Safe YAML with two traps removed: a key given twice is an error, and 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is text, not a list or a mapping", key.start_mark
                )
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+"), list("-+0123456789")
)

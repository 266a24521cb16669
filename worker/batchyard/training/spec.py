"""What a training job is: every key, its default and the rules for its values. Standard library only.

`TrainingJobSpec.from_mapping` reads the nested mapping of a job file (or of the API's message) and raises one
SpecError that lists everything wrong with it. A constructed spec is legal by itself; whether a cluster can run it, or
a data file can be read, shows later.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

ARCHITECTURES = ("mlp", "lenet", "inception_bn", "resnet18", "resnet34", "resnet50", "resnet101")
ACTIVATIONS = ("sigmoid", "tanh", "relu")
NORMS = ("batch", "none", "detached", "standardize_post", "zca", "iternorm", "renorm")
WHITENING = ("zca", "iternorm")
"""Those of NORMS that mix channels: population statistics and folding are for layers that do not."""
DATASETS = ("digits", "mnist")
OPTIMIZERS = ("sgd",)
SYNC_BATCH_NORM = ("world", "none")
STATISTICS = ("alg2", "population", "cumulative", "ema")

NAME_RULE = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
INT64_MAX = 2**63 - 1
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Violation:
    """One thing wrong with one field."""

    field: str
    """Path from the top of the spec, for example workers.count."""
    description: str
    """What was given, what is expected, what to do."""


class SpecError(ValueError):
    """The spec is not legal; `violations` says where and why."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class _Checks:
    """Collects violations while a dataclass checks itself."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def require(self, legal: bool, name: str, given: object, expected: str) -> None:
        if not legal:
            self.violations.append(Violation(name, f"{given!r} given; expected {expected}"))

    def one_of(self, name: str, given: str, legal: tuple[str, ...]) -> None:
        if given not in legal:
            near = difflib.get_close_matches(str(given), legal, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self.violations.append(Violation(name, f"{given!r} given; expected one of {', '.join(legal)}{hint}"))

    def integer(self, name: str, given: int, least: int, most: int = INT64_MAX) -> None:
        self.require(least <= given <= most, name, given, f"a whole number from {least} to {most}")

    def name(self, name: str, given: str) -> None:
        rule = "1 to 40 characters of a-z, 0-9 and '-', beginning with a letter and not ending with '-'"
        self.require(NAME_RULE.fullmatch(given) is not None, name, given, rule)

    def finish(self) -> None:
        if self.violations:
            raise SpecError(self.violations)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network."""

    architecture: str
    """One of ARCHITECTURES."""
    hidden: tuple[int, ...] = (100, 100, 100)
    """mlp only: units of each hidden layer (section 4.1 of the paper)."""
    activation: str = "sigmoid"
    """One of ACTIVATIONS."""
    norm: str = "batch"
    """One of NORMS: batch normalises the input of each activation; none leaves the plain network; the others are there
    to compare with (docs/batchnorm.md)."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.one_of("architecture", self.architecture, ARCHITECTURES)
        checks.one_of("activation", self.activation, ACTIVATIONS)
        checks.one_of("norm", self.norm, NORMS)
        checks.require(1 <= len(self.hidden) <= 64, "hidden", list(self.hidden), "1 to 64 layers")
        for i, units in enumerate(self.hidden):
            checks.integer(f"hidden[{i}]", units, 1, 65536)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The training data."""

    dataset: str
    """One of DATASETS."""
    batch_size: int = 60
    """Samples in one global batch, shared out over all workers."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.one_of("dataset", self.dataset, DATASETS)
        checks.integer("batch_size", self.batch_size, 1, INT32_MAX)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """How weights are updated."""

    name: str = "sgd"
    """One of OPTIMIZERS."""
    learning_rate: float = 0.1
    """Step size, above 0."""
    momentum: float = 0.0
    """In [0, 1)."""
    weight_decay: float = 0.0
    """L2 penalty on weights, 0 or more; never on biases, gamma or beta."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.one_of("name", self.name, OPTIMIZERS)
        rate, momentum, decay = self.learning_rate, self.momentum, self.weight_decay
        checks.require(math.isfinite(rate) and rate > 0, "learning_rate", rate, "a finite number above 0")
        checks.require(0 <= momentum < 1, "momentum", momentum, "a number from 0 up to but not including 1")
        checks.require(math.isfinite(decay) and decay >= 0, "weight_decay", decay, "a finite number, 0 or more")
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class WorkersSpec:
    """Where the job runs."""

    count: int = 1
    """Worker processes."""
    gpus_per_worker: int = 0
    """GPUs reserved for each worker; 0 trains on the CPU over gloo."""
    sync_batch_norm: str = "world"
    """world: batch statistics over all workers; none: each worker normalises by its own shard."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.integer("count", self.count, 1, 4096)
        checks.integer("gpus_per_worker", self.gpus_per_worker, 0, 1)
        checks.one_of("sync_batch_norm", self.sync_batch_norm, SYNC_BATCH_NORM)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """When accuracy on held-out data is measured."""

    every_steps: int = 500
    """Steps between evaluations; 0: only after the last step."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.integer("every_steps", self.every_steps, 0)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """When progress is reported."""

    every_steps: int = 20
    """Steps between metric points; the first and the last step are always reported."""
    activation_statistics: bool = True
    """Whether activation statistics of each layer are collected."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.integer("every_steps", self.every_steps, 1)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class PublishSpec:
    """What becomes of the trained network."""

    model: str
    """The model that gets a new version."""
    statistics: str = "alg2"
    """One of STATISTICS; alg2 is Algorithm 2 of the paper."""
    alias: str | None = None
    """An alias to point at the new version."""

    def __post_init__(self) -> None:
        checks = _Checks()
        checks.name("model", self.model)
        checks.one_of("statistics", self.statistics, STATISTICS)
        if self.alias is not None:
            checks.name("alias", self.alias)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class TrainingJobSpec:
    """A whole training job."""

    name: str
    """A short name for people; the job's id starts with it."""
    model: ModelSpec
    data: DataSpec
    steps: int
    """Optimiser steps (global batches) to train for."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    workers: WorkersSpec = field(default_factory=WorkersSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    publish: PublishSpec | None = None
    """None: the trained network is evaluated and not published."""
    seed: int = 0
    """Seeds initial weights and data order; the same spec gives the same weights."""

    def __post_init__(self) -> None:
        checks = _Checks()
        _check_top(checks, self.name, self.steps, self.seed)
        batch, count = self.data.batch_size, self.workers.count
        enough = f"at least one sample for each of the {count} workers: raise it, or lower workers.count"
        checks.require(batch >= count, "data.batch_size", batch, enough)
        alone = f"2 samples for each of the {count} workers, as workers.sync_batch_norm is none: raise it, or use world"
        local = self.workers.sync_batch_norm == "none" and self.model.norm != "none"
        checks.require(batch >= 2 * count or not local, "data.batch_size", batch, alone)
        unfoldable = f"another than {' or '.join(WHITENING)}, which do not fold: leave publish out, or choose batch"
        published = self.publish is not None and self.model.norm in WHITENING
        checks.require(not published, "model.norm", self.model.norm, unfoldable)
        several = "2 or more: batch normalisation needs several samples to take statistics over"
        checks.require(batch >= 2 or self.model.norm == "none", "data.batch_size", batch, several)
        checks.finish()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Reads the nested mapping of a job file. Raises SpecError listing every violation found."""
        violations: list[Violation] = []
        spec = _build(cls, mapping, "", violations)
        if violations:
            raise SpecError([*violations, *_overlooked(mapping, {v.field for v in violations})])
        return typing.cast(Self, spec)

    def to_mapping(self) -> dict[str, Any]:
        """The nested mapping that `from_mapping` reads, with every default filled in; JSON-ready."""
        return typing.cast("dict[str, Any]", _plain(self))


def _check_top(checks: _Checks, name: str, steps: int, seed: int) -> None:
    """What stands at the top of a spec and depends on nothing below."""
    checks.name("name", name)
    checks.integer("steps", steps, 1)
    checks.integer("seed", seed, 0)


def _overlooked(mapping: object, named: set[str]) -> list[Violation]:
    """Violations at the top of a spec that could not be built because of what lies deeper."""
    given = mapping if isinstance(mapping, Mapping) else {}
    fitting = {"name": "a", "steps": 1, "seed": 0}
    fitting |= {key: given[key] for key, legal in fitting.items() if type(given.get(key)) is type(legal)}
    checks = _Checks()
    _check_top(checks, **fitting)  # type: ignore[arg-type]  # of the types that stood there before
    return [violation for violation in checks.violations if violation.field not in named]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(part) for name, part in pairs if part is not None}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _build(kind: type, mapping: object, path: str, violations: list[Violation]) -> object | None:
    """Makes a `kind` from `mapping`, or adds to `violations` and returns None."""
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
        return _build(typing.cast(type, hint), value, path, violations)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(int, part, f"{path}[{i}]", violations) for i, part in enumerate(value))
        violations.append(Violation(path, f"{value!r} given; expected a list of whole numbers"))
        return None
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    expected = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]
    violations.append(Violation(path, f"{value!r} given; expected {expected}"))
    return None

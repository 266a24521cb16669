"""Traces of single requests: when each began, was queued, was computed and ended; files in a folder of the operator's.

Protocol: Triton's trace extension, mode "triton", level TIMESTAMPS: JSON lists that its trace_summary.py reads.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchyard.endpoint.errors import FieldViolation, ForbiddenError, InvalidInputError
from batchyard.serving.shown import shown
from batchyard.serving.telemetry import Metadata, Spans, Subject, Telemetry

Values = dict[str, tuple[str, ...]]
"""Settings by the protocol's names, as the protocol writes them."""

DEFAULTS: Values = {
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_file": ("trace.json",),
    "trace_mode": ("triton",),
}
LEGAL = {
    "trace_level": (r"OFF|TIMESTAMPS", "OFF or TIMESTAMPS"),
    "trace_rate": (r"[1-9][0-9]{0,8}", "1 or more: one request of so many is traced"),
    "trace_count": (r"-1|[0-9]{1,9}", "how many more are traced, -1 for no bound"),
    "log_frequency": (r"[0-9]{1,9}", "traces for each file, 0 for one file"),
    "trace_file": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "a plain file name, without a folder"),
    "trace_mode": (r"triton", "triton"),
}
"""Setting -> what its value looks like, and in words."""
WRITTEN_TOGETHER = 100
"""Traces of one file are kept in memory up to this many."""
MOST_BYTES = 256 << 20
"""All traces of one process together: a client must not be able to fill the disk."""

log = logging.getLogger(__name__)


class Trace:
    """One request's times, in nanoseconds of a clock that never goes back."""

    __slots__ = ("about", "marks", "tracer")

    def __init__(self, tracer: Tracer, about: dict[str, Any]) -> None:
        self.tracer = tracer
        self.about = about
        self.marks = [("REQUEST_START", time.monotonic_ns())]

    def mark(self, name: str) -> None:
        """Something happens now."""
        self.marks.append((name, time.monotonic_ns()))

    def computed(self, began: float, ended: float) -> None:
        """The batch that the request was in, in seconds of the same clock."""
        self.marks += [("COMPUTE_START", int(began * 1e9)), ("COMPUTE_END", int(ended * 1e9))]

    def end(self, error: str = "") -> None:
        """The request is answered, or has failed."""
        self.mark("REQUEST_END")
        self.tracer.collect({**self.about, "timestamps": [{"name": name, "ns": ns} for name, ns in self.marks]})


class Both:
    """One request that is traced in two ways."""

    def __init__(self, *traces: Trace | Spans) -> None:
        self._traces = traces

    def mark(self, name: str) -> None:
        """Something happens now."""
        for trace in self._traces:
            trace.mark(name)

    def computed(self, began: float, ended: float) -> None:
        """The batch that the request was in."""
        for trace in self._traces:
            trace.computed(began, ended)

    def end(self, error: str = "") -> None:
        """The request is answered, or has failed."""
        for trace in self._traces:
            trace.end(error)


AnyTrace = Trace | Spans | Both
"""What a request that is traced tells of itself."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """Settings that hold for some models, read."""

    on: bool
    rate: int
    frequency: int
    file: str

    @classmethod
    def read(cls, values: Values) -> TraceOptions:
        """From checked values."""
        return cls(
            on=values["trace_level"] != DEFAULTS["trace_level"],
            rate=int(values["trace_rate"][0]),
            frequency=int(values["log_frequency"][0]),
            file=values["trace_file"][0],
        )


class Tracer:
    """Samples and collects under one set of settings."""

    def __init__(self, values: Values, writer: Writer) -> None:
        self.values = values
        self.options = TraceOptions.read(values)
        self.left = int(values["trace_count"][0])
        """How many more are traced; -1: no bound."""
        self._writer = writer
        self._seen = 0
        self._files = 0
        self._collected: list[dict[str, Any]] = []

    def begin(self, model: str, version: str, request_id: str) -> Trace | None:
        """None: this request is not one that is traced."""
        self._seen += 1
        if not self.options.on or self.left == 0 or self._seen % self.options.rate:
            return None
        if self.left > 0:
            self.left -= 1
        about = {"id": self._writer.next_id(), "model_name": model, "model_version": version, "request_id": request_id}
        return Trace(self, about)

    def collect(self, trace: dict[str, Any]) -> None:
        """Writes when there are enough, or when this was the last."""
        self._collected.append(trace)
        if len(self._collected) >= (self.options.frequency or WRITTEN_TOGETHER) or self.left == 0:
            self.flush()

    def flush(self) -> None:
        """Writes what there is."""
        if not self._collected:
            return
        name = self.options.file
        if self.options.frequency:
            name, self._files = f"{name}.{self._files}", self._files + 1
        self._writer.write(name, self._collected)
        self._collected = []


class Writer:
    """Appends traces to files, on a thread of its own."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batchyard-trace")
        self._ids = 0
        self._bytes = 0

    def next_id(self) -> int:
        """Numbers of traces, from 1."""
        self._ids += 1
        return self._ids

    def write(self, name: str, traces: Sequence[Mapping[str, Any]]) -> None:
        """Adds to the list in the file, soon."""
        assert self.folder is not None, "no setting turns tracing on without a folder"
        self._thread.submit(self._append, self.folder / name, ",\n".join(map(json.dumps, traces)))

    def close(self) -> None:
        """Returns once everything is written."""
        self._thread.shutdown()

    def _append(self, path: Path, text: str) -> None:
        if self._bytes + len(text) > MOST_BYTES:
            log.warning("trace of %d bytes dropped: this process has written its %d", len(text), MOST_BYTES)
            return
        self._bytes += len(text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+" if path.exists() else "w+") as file:
                end = file.seek(0, 2)
                file.seek(max(0, end - len("\n]\n")))
                file.write(f"{',' if end else '['}\n{text}\n]\n")
        except OSError as error:
            log.error("trace cannot be written to %s: %s", path, error)


class Tracing:
    """The settings of all models, and those that single models have instead. Belongs to one event loop."""

    def __init__(self, folder: Path | None, telemetry: Telemetry | None = None) -> None:
        """`folder`: where files may be written; None: nowhere, and clients cannot turn tracing on.

        `telemetry`: gets spans, whatever clients set.
        """
        self._telemetry = telemetry
        self._writer = Writer(folder)
        self._changes: dict[str, Values] = {"": {}}
        """Model, or "" for all -> what differs from what holds for all, or from the defaults."""
        self._tracers = {"": Tracer(DEFAULTS, self._writer)}
        self.active = telemetry is not None
        """Whether any request may be traced: all that a request which is not needs to know."""

    def begin(self, subject: Subject, metadata: Metadata) -> AnyTrace | None:
        """None: this request is not one that is traced."""
        trace = self._tracers.get(subject.model, self._tracers[""]).begin(*subject)
        if self._telemetry is None:
            return trace
        spans = self._telemetry.begin(subject, metadata)
        return Both(trace, spans) if trace and spans else trace or spans

    def settings(self, model: str = "") -> Values:
        """What holds for a model, or for all that have no settings of their own; trace_count is what is left of it."""
        left = self._tracers.get(model, self._tracers[""]).left
        return {**self._values(model), "trace_count": (str(left),)}

    def change(self, model: str, changes: Mapping[str, Sequence[str]]) -> None:
        """New values; none for a name: its default again, a model's that of all.

        Raises InvalidInputError naming the setting; ForbiddenError when tracing would begin and there is no folder.
        """
        merged = dict(self._changes.get(model, {}))
        for name, given in changes.items():
            merged.pop(name, None)
            if given:
                merged[name] = _checked(name, given)
        if self._writer.folder is None and merged.get("trace_level", ("OFF",)) != ("OFF",):
            raise ForbiddenError(
                "trace_level: traces may not be written here; "
                "the operator can start the inference plane with --trace-dir DIR",
                reason="TRACING_FORBIDDEN",
            )
        for tracer in self._tracers.values():
            tracer.flush()
        self._changes[model] = merged
        if model and not merged:
            del self._changes[model]
        self._tracers = {name: self._tracer(name) for name in self._changes}
        self.active = self._telemetry is not None or any(tracer.options.on for tracer in self._tracers.values())

    def close(self) -> None:
        """Writes what there is."""
        for tracer in self._tracers.values():
            tracer.flush()
        self._writer.close()
        if self._telemetry is not None:
            self._telemetry.close()

    def _values(self, model: str) -> Values:
        return {**DEFAULTS, **self._changes[""], **self._changes.get(model, {})}

    def _tracer(self, model: str) -> Tracer:
        """The one that there is, with what it has counted, if nothing changes for it."""
        values = self._values(model)
        known = self._tracers.get(model)
        return known if known is not None and known.values == values else Tracer(values, self._writer)


def _checked(name: str, given: Sequence[str]) -> tuple[str, ...]:
    if name not in LEGAL:
        raise _invalid(shown(name), f"unknown; expected one of {', '.join(LEGAL)}")
    pattern, expected = LEGAL[name]
    if len(given) != 1 or not re.fullmatch(pattern, given[0], re.ASCII):
        got = ", ".join(shown(value) for value in given[:3])
        raise _invalid(name, f"got {got}; expected {expected}")
    return tuple(given)


def _invalid(name: str, problem: str) -> InvalidInputError:
    return InvalidInputError([FieldViolation(f"settings[{name}]", problem)])

"""Four times as many requests as a server can answer. A part of bench/serving.py.

Answers must come nearly as fast as at the peak, and the rest must be refused at once, with RESOURCE_EXHAUSTED and a
RetryInfo, in bounded memory. ResNet-18 is limited by its engine and has a short queue here; the MLP is limited by the
transport, which slows its callers down before its queue, of the default length, is full.

The plane has one half of the cores and its clients the other, at the peak, too: four times as many requests cost h2load
four times as much, and that must not be taken from the server.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.endpoint.status import DETAILS_KEY
from batchyard.oip import Stub
from bench import h2load, inference_plane, report
from bench.contest import onnxruntime_logits
from bench.h2load import Outcome, Shape
from bench.inference_plane import Plane
from bench.oip_target import Artifact, Rows, Target

FACTOR = 4
GOODPUT_BAR = 0.9
REFUSAL_BAR = 1.0
"""A refusal takes no longer than an answer at the peak."""
MEMORY_BAR = 1.1
"""However often it is overloaded, memory stays what the first time took."""
PEAK_SHAPE = Shape(connections=4, streams=16)
SHAPE = Shape(connections=8, streams=256)
"""Enough streams that the offered rate is not held back by requests that wait for their answers."""
SHORT_QUEUE = ("--queue-rows", "128")
PAUSE = 0.02
"""Seconds between two requests of the probe."""
REFUSED = "RESOURCE_EXHAUSTED"


@dataclass
class Probe:
    """What a client of its own sees meanwhile."""

    refusals: list[float] = field(default_factory=list)
    """Seconds until each refusal."""
    answers: list[float] = field(default_factory=list)
    """When each answer came, as time.time() tells it."""
    faults: list[str] = field(default_factory=list)
    """Whatever is neither an answer nor a refusal as it should be."""
    noted: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Once for each request that has ended."""

    def ask(self, seconds: float, target: Target, rows: Rows) -> None:
        """One request after the other, without waiting: whoever waits for answers asks when there is room again.

        Not for longer than the load: what is asked while the queue empties would be answered when nobody counts.
        """
        asked, end = 0, time.monotonic() + seconds
        with grpc.insecure_channel(target.address) as channel:
            while time.monotonic() < end:
                time.sleep(PAUSE)
                call = target.send(channel, rows)
                call.add_done_callback(partial(self._note, time.perf_counter()))
                asked += 1
            for _ in range(asked):
                self.noted.acquire()

    def _note(self, began: float, call: Any) -> None:
        error = call.exception()
        if error is None:
            self.answers.append(time.time())
        else:
            self.refusals.append(time.perf_counter() - began)
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or not _has_retry_info(error):
                self.faults.append(f"{error.code().name}: {error.details()}")
        self.noted.release()


def _has_retry_info(error: grpc.RpcError) -> bool:
    trailers: Any = error.trailing_metadata() or ()
    packed = [value for key, value in trailers if key == DETAILS_KEY]
    details = [detail for each in packed for detail in status_pb2.Status.FromString(each).details]
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)


def rows(name: str, artifact: Artifact, folder: Path, rounds: int, seconds: float, *options: str) -> list[report.Row]:
    """Goodput, refusals and memory against the peak's. Raises RuntimeError for whatever is no answer and no refusal.

    `seconds`: for how long one run sends.
    """
    for_plane, for_clients = _halves()
    with on(for_plane), inference_plane.running(folder, *options) as plane, on(for_clients):
        plane.control.want(artifact.name, 1, artifact.folder, artifact.sha256)
        target = Target(name="ours", address=plane.grpc, model=artifact.name, tensor="pixels", pixels=np.uint8)
        target.wait_until_ready(plane.process, folder / "log")
        with grpc.insecure_channel(plane.grpc) as channel:
            inference_plane.until_measured(Stub(channel), artifact.name)
        load = Overload(target, artifact, seconds)
        load.overload()
        before = plane.resident_bytes()
        measured = report.alternate({"4x": load.overload, "peak": load.peak}, rounds)
        _check(plane, measured["4x"] + measured["peak"], load.probes)
        after = plane.resident_bytes()
    rates = {each: [outcome.rate for outcome in outcomes] for each, outcomes in measured.items()}
    found = [report.compare(f"{name} at 4x its peak, answers", rates, "4x", "peak", unit="requests/s", bar=GOODPUT_BAR)]
    refusals = [seconds for probe in load.probes for seconds in probe.refusals]
    if refusals:
        answer = statistics.median(outcome.quantile(0.5) for outcome in measured["peak"])
        p99 = float(np.quantile(refusals, 0.99))
        label = f"{name} at 4x its peak, refusals, p99"
        found.append(_row(label, p99 * 1e3, "answer at the peak, p50", answer * 1e3, "ms", REFUSAL_BAR))
    label = f"{name} at 4x its peak, memory"
    found.append(_row(label, after / 1e6, "after the first time", before / 1e6, "MB", MEMORY_BAR))
    return found


def _halves() -> tuple[set[int], set[int]]:
    """The cores that this process may use, shared out; both halves are all of them where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return (set(cores[:half]), set(cores[half:])) if half else (set(cores), set(cores))


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Keeps this thread, and what it starts meanwhile, to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _row(name: str, ours: float, peer: str, value: float, unit: str, bar: float) -> report.Row:
    return report.Row(name=name, ours=ours, peer=peer, peer_value=value, unit=unit, bar=bar)


class Overload:
    """Loads one target."""

    def __init__(self, target: Target, artifact: Artifact, seconds: float) -> None:
        self._target, self._rows, self._seconds = target, artifact.rows, seconds
        self._expected = onnxruntime_logits(artifact.folder / ONNX_MODEL, artifact.rows)
        self.probes: list[Probe] = []
        self._rate = self._run(PEAK_SHAPE, 200).rate
        self._rate = self.peak().rate

    def peak(self) -> Outcome:
        """As many requests as are answered without a refusal."""
        return self._run(PEAK_SHAPE, round(self._rate * self._seconds))

    def overload(self) -> Outcome:
        """FACTOR times as many a second.

        The probe's answers meanwhile count, and the time until the last of them: its requests take others' places.
        """
        probe = Probe()
        self.probes.append(probe)
        asking = threading.Thread(target=probe.ask, args=(self._seconds, self._target, self._rows))
        asking.start()
        try:
            offered = self._rate * FACTOR
            outcome = self._run(SHAPE, round(offered * self._seconds), offered)
        finally:
            asking.join()
        begin = float(outcome.begins.min())
        end = max(begin + outcome.seconds, *probe.answers) if probe.answers else begin + outcome.seconds
        count = len(probe.answers)
        return dataclasses.replace(
            outcome, sent=outcome.sent + count, answered=outcome.answered + count, seconds=end - begin
        )

    def _run(self, shape: Shape, requests: int, rate: float | None = None) -> Outcome:
        """Between two checks of the answers."""
        body, reply_bytes = self._target.request(self._rows), self._target.check(self._rows, self._expected)
        outcome = h2load.run(self._target.address, body, reply_bytes, shape, requests, rate)
        self._target.check(self._rows, self._expected)
        return outcome


def _check(plane: Plane, outcomes: Sequence[Outcome], probes: Sequence[Probe]) -> None:
    """Whatever was not answered was refused: by the plane's own count, and as the probes saw it."""
    if faults := [fault for probe in probes for fault in probe.faults]:
        raise RuntimeError(f"{len(faults)} requests were neither answered nor refused as they should be: {faults[0]}")
    unanswered = sum(outcome.sent - outcome.answered for outcome in outcomes) + sum(len(p.refusals) for p in probes)
    failures = plane.failures()
    if failures.get(REFUSED, 0) != sum(failures.values()) or failures.get(REFUSED, 0) < unanswered:
        raise RuntimeError(f"{unanswered} requests were not answered; the plane counts {failures}")

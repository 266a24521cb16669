"""A new version takes over while requests come in. A part of bench/serving.py.

Two loads: half of what the server can do, at a steady rate, and all of it. Half a second into a load the control plane
wants another version, and another one when that has answered for a while, as often as the load lasts; what counts is
the p99 of all requests from the first wish until a while after the last new version's first answer, against the p99 of
a load without a swap. (One swap of ResNet-18 meets 350 requests: their p99 is the fourth slowest, and its ratio was
spread by half of itself.) The versions have different weights of one graph: as after every training, the engines need
not be tried anew. Another client asks all the while and checks each answer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.oip import Stub
from bench import h2load, inference_plane, report
from bench.contest import Cell, onnxruntime_logits
from bench.h2load import Outcome, Shape
from bench.oip_target import TOLERANCE, Artifact, Target

BAR = 1.5
CELL = Cell(shape=Shape(connections=4, streams=16))
FIRST_VERSION = 11
"""Every version has two digits, so that replies are of one size."""
WISH_AFTER = 0.5
"""Seconds from the beginning of a load to the wish for another version."""
COUNTED_SECONDS, AFTER_SWAP = 1.0, 0.2
"""What counts of one swap: at least so long, and so long after the new version's first answer, while the old one drains
and is freed."""
ROOM = 1.25
"""Another swap begins while there is time left for one that takes so many times as long as the last."""
COUNTED_SHARE = 0.8
"""Of a load: what may count. How fast it will be answered, and so when it ends, is not known to the tenth."""
PEAK_RUNS = 4
PAUSE = 0.01
"""Seconds between two questions of the client that checks."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run sends."""

    seconds: float
    requests: int
    rate: float | None
    """A second; None: as many as are answered."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    p99: float
    seconds: tuple[float, ...] = ()
    """From each wish to the new version's first answer."""


class LoadEndedError(RuntimeError):
    """Before the wanted version answered."""


class Swapping:
    """A plane that serves one of two networks, and then the other."""

    def __init__(self, plane: inference_plane.Plane, networks: Sequence[Artifact], folder: Path) -> None:
        """`networks`: two of one model, for the same rows; `folder` has the plane's log."""
        self._control = plane.control
        self._networks = networks
        self._expected = [onnxruntime_logits(each.folder / ONNX_MODEL, each.rows) for each in networks]
        self._version = FIRST_VERSION
        name, kind = networks[0].name, networks[0].rows.dtype.type
        self._target = Target(name="ours", address=plane.grpc, model=name, tensor="pixels", pixels=kind)
        self._want()
        self._target.wait_until_ready(plane.process, folder / "log")
        with self._channel() as channel:
            inference_plane.until_measured(Stub(channel), name)

    def peak(self, requests: int) -> float:
        """Answers a second when so many are sent as are answered: the most of some runs."""
        load = Load(seconds=0, requests=requests, rate=None)
        return max(self._load(load, self._check()).rate for _ in range(PEAK_RUNS))

    def steady(self, load: Load) -> Measured:
        """A load while nothing else happens."""
        with self._loading(load) as running, self._channel() as channel:
            time.sleep(WISH_AFTER)
            begin = time.time()
            try:
                end = self._ask_until(channel, begin + COUNTED_SHARE * load.seconds - WISH_AFTER, running)
            except LoadEndedError:  # answered faster than the peak
                end = time.time()
        return Measured(p99=running.result().quantile_between(begin, end, 0.99))

    def swaps(self, load: Load) -> Measured:
        """A load during which the networks take over from each other.

        A swap that it does not see the end of is left out, unless it is the first: then what counts is the load's rest.
        """
        seconds: list[float] = []
        with self._loading(load) as running, self._channel() as channel:
            over = time.time() + COUNTED_SHARE * load.seconds
            time.sleep(WISH_AFTER)
            begin = end = time.time()
            while not seconds or end + ROOM * max(COUNTED_SECONDS, seconds[-1] + AFTER_SWAP) < over:
                wished = end
                self._version += 1
                self._want()
                try:
                    answered = self._ask_until(channel, wished, running)
                except LoadEndedError:
                    end = end if seconds else time.time()
                    self._ask_until(channel, wished, Future())  # the next load begins with this version
                    break
                seconds.append(answered - wished)
                end = self._ask_until(channel, wished + max(COUNTED_SECONDS, seconds[-1] + AFTER_SWAP), running)
        return Measured(p99=running.result().quantile_between(begin, end, 0.99), seconds=tuple(seconds))

    def _want(self) -> None:
        network = self._networks[self._version % 2]
        self._control.want(network.name, self._version, network.folder, network.sha256)

    def _check(self) -> int:
        """Checks the answers, and returns the size of the reply."""
        network, expected = self._networks[self._version % 2], self._expected[self._version % 2]
        return self._target.check(network.rows, expected)

    def _load(self, load: Load, reply_bytes: int) -> Outcome:
        """One run of h2load. Raises RuntimeError when a request is not answered."""
        body = self._target.request(self._networks[0].rows)
        outcome = h2load.run(self._target.address, body, reply_bytes, CELL.shape, load.requests, load.rate)
        if outcome.answered != outcome.sent:
            raise RuntimeError(f"{outcome.sent - outcome.answered} of {outcome.sent} requests failed")
        return outcome

    @contextmanager
    def _loading(self, load: Load) -> Iterator[Future[Outcome]]:
        """While a load runs; waits for its end."""
        with ThreadPoolExecutor(1) as executor:
            yield executor.submit(self._load, load, self._check())

    def _ask_until(self, channel: grpc.Channel, until: float, running: Future[Outcome]) -> float:
        """Asks until the wanted version answers and that moment has passed; returns the time of the last answer.

        Raises LoadEndedError when the load ends first, RuntimeError when an answer is no network's.
        """
        rows = self._networks[0].rows
        while True:
            logits = self._target.ask(channel, rows)[0]
            answered_by = [index for index, expected in enumerate(self._expected) if _is_near(logits, expected)]
            if not answered_by:
                raise RuntimeError(f"an answer is of neither version: {logits}")
            if (now := time.time()) >= until and answered_by == [self._version % 2]:
                return now
            if running.done():
                raise LoadEndedError(f"version {self._version} did not answer for as long as the load lasted")
            time.sleep(PAUSE)

    def _channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self._target.address)


def rows(
    name: str, networks: Sequence[Artifact], folder: Path, rounds: int, seconds: float, peak_requests: int
) -> list[report.Row]:
    """p99 with swaps against p99 without, in loads of so many seconds. Raises RuntimeError when a request failed.

    `networks`: two for the same rows.
    """
    with inference_plane.running(folder) as plane:
        swapping = Swapping(plane, networks, folder)
        peak = swapping.peak(peak_requests)
        found = []
        for label, rate in (("half load", peak / 2), ("full load", None)):
            load = Load(seconds=seconds, requests=round((rate or peak) * seconds), rate=rate)
            found += _rows(f"{name}, version swap under {label}, {CELL}", swapping, load, rounds)
        if failures := plane.failures():
            raise RuntimeError(f"requests failed during version swaps: {failures}")
        return found


def _rows(name: str, swapping: Swapping, load: Load, rounds: int) -> list[report.Row]:
    contenders = {"swap": partial(swapping.swaps, load), "steady": partial(swapping.steady, load)}
    measured = report.alternate(contenders, rounds)
    p99 = {contender: [each.p99 for each in runs] for contender, runs in measured.items()}
    seconds = [seconds for each in measured["swap"] for seconds in each.seconds]
    if not seconds:
        raise LoadEndedError("no load saw the end of a swap")
    return [
        report.compare(f"{name}, p99", p99, "swap", "steady", unit="ms", bar=BAR, scale=1e3),
        report.Row(
            name=f"{name}, until it answers", ours=statistics.median(seconds), peer="a second", peer_value=1.0, unit="s"
        ),
    ]


def _is_near(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    return bool(np.abs(logits - expected).max() < TOLERANCE)

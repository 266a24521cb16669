"""A new version takes over while requests come in. A part of bench/serving.py.

Two loads: half of what the server can do, at a steady rate, and all of it. Each run with a swap is compared with one
without. The versions have different weights, and answers are checked before and after.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from bench import h2load, inference_plane, report
from bench.contest import Cell
from bench.h2load import Shape
from bench.oip_target import TOLERANCE, Target
from bench.small_artifact import SmallNetwork, publish

BAR = 1.5
CELL = Cell(shape=Shape(connections=4, streams=16))
FIRST_VERSION = 11
"""Every version has two digits, so that replies are of one size."""
SWAP_AFTER = 0.5
"""Seconds into the run."""
SWAP_SECONDS = 30
PEAK_REQUESTS = 20_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one run sends."""

    requests: int
    rate: float | None
    """A second; None: as many as are answered."""


@dataclass(kw_only=True)
class Swapping:
    """A plane that serves `mnist`, and the version that it serves."""

    plane: inference_plane.Plane
    target: Target
    folder: Path
    version: int = FIRST_VERSION - 1

    def prepare(self) -> tuple[Path, str]:
        """Writes the next version's artifact."""
        uri = self.folder / f"artifact-{self.version + 1}"
        return uri, publish(uri, self._network(self.version + 1))

    def swap(self, prepared: tuple[Path, str]) -> None:
        """Asks for the next version."""
        self.version += 1
        self.plane.control.want("mnist", self.version, *prepared)

    def await_answers(self) -> int:
        """Waits until the current version answers, checks it, and returns the size of its reply to one row."""
        deadline = time.monotonic() + SWAP_SECONDS
        while not self.answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"version {self.version} does not answer after {SWAP_SECONDS} s")
            time.sleep(0.05)
        network = self._network(self.version)
        pixels = network.pixels(4)
        self.target.check(pixels, network.oracle(pixels))
        with grpc.insecure_channel(self.target.address) as channel:
            return self.target.ask(channel, pixels[:1])[1]

    def answers(self) -> bool:
        """Whether requests are answered by the current version now."""
        network = self._network(self.version)
        pixels = network.pixels(1)
        with grpc.insecure_channel(self.target.address) as channel:
            logits = self.target.ask(channel, pixels)[0]
        return bool(abs(logits - network.oracle(pixels)).max() < TOLERANCE)

    @staticmethod
    def _network(seed: int) -> SmallNetwork:
        return SmallNetwork(seed=seed, row_shape=(784,))


def rows(folder: Path, rounds: int, seconds: float = 3.0) -> list[report.Row]:
    """p99 with a swap against p99 without one. Raises RuntimeError when a request failed."""
    with inference_plane.running(folder) as plane:
        target = Target(name="ours", address=plane.grpc, model="mnist", tensor="pixels")
        swapping = Swapping(plane=plane, target=target, folder=folder)
        swapping.swap(swapping.prepare())
        target.wait_until_ready(plane.process, folder / "log")
        reply_bytes = swapping.await_answers()
        few = SmallNetwork(row_shape=(784,)).pixels(1)
        peak = h2load.run(plane.grpc, target.request(few), reply_bytes, CELL.shape, PEAK_REQUESTS).rate
        found = []
        for name, rate in (("half load", peak / 2), ("full load", None)):
            load = Load(requests=round((rate or peak) * seconds), rate=rate)
            contenders = {"swap": partial(_with_swap, swapping, load), "steady": partial(_p99, swapping, load)}
            label = f"version swap under {name}, {CELL}, p99"
            measured = report.alternate(contenders, rounds)
            found.append(report.compare(label, measured, "swap", "steady", unit="ms", bar=BAR, scale=1e3))
        if failures := plane.failures():
            raise RuntimeError(f"requests failed during version swaps: {failures}")
        return found


def _p99(swapping: Swapping, load: Load) -> float:
    """Of one run. Raises RuntimeError when not every request was answered."""
    reply_bytes = swapping.await_answers()
    body = swapping.target.request(SmallNetwork(row_shape=(784,)).pixels(1))
    outcome = h2load.run(swapping.target.address, body, reply_bytes, CELL.shape, load.requests, load.rate)
    if outcome.answered != outcome.sent:
        raise RuntimeError(f"{outcome.sent - outcome.answered} of {outcome.sent} requests failed during a version swap")
    return outcome.quantile(0.99)


def _with_swap(swapping: Swapping, load: Load) -> float:
    """The same while the version changes. Raises RuntimeError when that takes longer than the run."""
    swapping.await_answers()
    timer = threading.Timer(SWAP_AFTER, swapping.swap, (swapping.prepare(),))
    timer.start()
    try:
        p99 = _p99(swapping, load)
    finally:
        timer.join()
    if not swapping.answers():
        raise RuntimeError(
            f"version {swapping.version} did not answer by the end of the run; the swap was not measured"
        )
    return p99

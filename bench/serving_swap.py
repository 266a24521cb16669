"""A new version takes over while requests come in. A part of bench/serving.py.

Two loads: half of what the server can do, at a steady rate, and all of it. Each swap is compared with a while without
one. The versions have different weights, and answers are checked before and after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from bench import h2load, inference_plane, report
from bench.contest import Cell
from bench.h2load import Outcome, Shape
from bench.oip_target import TOLERANCE, Target
from bench.small_artifact import SmallNetwork, publish

BAR = 1.5
CELL = Cell(shape=Shape(connections=4, streams=16))
FIRST_VERSION = 11
"""Every version has two digits, so that replies are of one size."""
CHUNK_SECONDS, STEADY_CHUNKS = 1.5, 2
"""The load comes in chunks, so that it lasts as long as the swap does, and no longer."""
SWAP_SECONDS = 90
PEAK_REQUESTS = 20_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one chunk sends."""

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

    def swap(self) -> None:
        """Publishes the next version and asks for it."""
        self.version += 1
        uri = self.folder / f"artifact-{self.version}"
        sha256 = publish(uri, self._network(self.version))
        self.plane.control.want("mnist", self.version, uri, sha256)

    def check(self) -> int:
        """Checks the current version's answers, and returns the size of its reply to one row."""
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


def rows(folder: Path, rounds: int) -> list[report.Row]:
    """p99 with a swap against p99 without one. Raises RuntimeError when a request failed."""
    with inference_plane.running(folder) as plane:
        target = Target(name="ours", address=plane.grpc, model="mnist", tensor="pixels")
        swapping = Swapping(plane=plane, target=target, folder=folder)
        swapping.swap()
        target.wait_until_ready(plane.process, folder / "log")
        full = Load(requests=PEAK_REQUESTS, rate=None)
        peak = [_chunk(swapping, full) for _ in range(2)][-1].rate
        found = []
        for name, rate in (("half load", peak / 2), ("full load", None)):
            load = Load(requests=round((rate or peak) * CHUNK_SECONDS), rate=rate)
            contenders = {"swap": partial(_with_swap, swapping, load), "steady": partial(_steady, swapping, load)}
            label = f"version swap under {name}, {CELL}, p99"
            measured = report.alternate(contenders, rounds)
            found.append(report.compare(label, measured, "swap", "steady", unit="ms", bar=BAR, scale=1e3))
        if failures := plane.failures():
            raise RuntimeError(f"requests failed during version swaps: {failures}")
        return found


def _steady(swapping: Swapping, load: Load) -> float:
    """The p99 while nothing else happens."""
    return _p99([_chunk(swapping, load) for _ in range(STEADY_CHUNKS)])


def _with_swap(swapping: Swapping, load: Load) -> float:
    """The p99 from the wish for a new version until a chunk after it. Raises RuntimeError when it never answers."""
    chunks, deadline = [], time.monotonic() + SWAP_SECONDS
    reply_bytes = swapping.check()
    swapping.swap()
    while not swapping.answers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"version {swapping.version} does not answer after {SWAP_SECONDS} s of load")
        chunks.append(_send(swapping, load, reply_bytes))
    return _p99([*chunks, _chunk(swapping, load)])


def _chunk(swapping: Swapping, load: Load) -> Outcome:
    """A part of a run; the current version's answers are checked before."""
    return _send(swapping, load, swapping.check())


def _send(swapping: Swapping, load: Load, reply_bytes: int) -> Outcome:
    body = swapping.target.request(SmallNetwork(row_shape=(784,)).pixels(1))
    outcome = h2load.run(swapping.target.address, body, reply_bytes, CELL.shape, load.requests, load.rate)
    if outcome.answered != outcome.sent:
        raise RuntimeError(f"{outcome.sent - outcome.answered} of {outcome.sent} requests failed during a version swap")
    return outcome


def _p99(chunks: Sequence[Outcome]) -> float:
    return float(np.quantile(np.concatenate([chunk.latencies for chunk in chunks]), 0.99))

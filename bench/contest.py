"""Servers of one ONNX model under the same load, in turns, every answer that can be seen checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench import h2load, report
from bench.h2load import Outcome, Shape
from bench.oip_target import Rows, Target

SECONDS = 1.5
"""One run of h2load takes about this."""
FEWEST, MOST = 100, 100_000
"""Requests of one run."""
CHECKED_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of load."""

    shape: Shape
    rows: int = 1
    """In each request."""

    def __str__(self) -> str:
        return f"{self.shape}" if self.rows == 1 else f"{self.shape}, {self.rows} rows"


class Contest:
    """Measures targets that serve the graph in the file `model`."""

    def __init__(self, model: Path, pixels: Rows) -> None:
        """`pixels` [n, ...]: the rows that are sent; n is the most that one request has."""
        self.pixels = pixels
        self._expected = onnxruntime_logits(model, pixels)

    def requests_for(self, cell: Cell, target: Target, seconds: float = SECONDS) -> int:
        """How many requests take the target about so long; warms it up, too."""
        few = max(FEWEST, 4 * cell.shape.connections * cell.shape.streams)
        rates = [self.run(cell, target, few).rate for _ in range(2)]
        return min(max(FEWEST, round(rates[-1] * seconds)), MOST)

    def run(self, cell: Cell, target: Target, requests: int) -> Outcome:
        """One run of h2load between two checks of the target's answers.

        Raises RuntimeError when not every request was answered, AssertionError when an answer is wrong.
        """
        rows = self.pixels[: cell.rows]
        reply_bytes = self.check(target, cell.rows)
        outcome = h2load.run(target.address, target.request(rows), reply_bytes, cell.shape, requests)
        if outcome.answered != requests:
            raise RuntimeError(f"{target.name} answered {outcome.answered} of {requests} requests at {cell}")
        self.check(target, cell.rows)
        return outcome

    def check(self, target: Target, rows: int = 1) -> int:
        """Compares answers with ONNX Runtime's; the size of the reply to a request of so many rows."""
        count = max(rows, CHECKED_ROWS)
        target.check(self.pixels[:count], self._expected[:count])
        with grpc.insecure_channel(target.address) as channel:
            return target.ask(channel, self.pixels[:rows])[1]

    def rate(self, cell: Cell, target: Target) -> Callable[[], float]:
        """What measures the target's answers a second."""
        requests = self.requests_for(cell, target)
        return lambda: self.run(cell, target, requests).rate

    def alternate(self, cell: Cell, targets: Sequence[Target], rounds: int) -> dict[str, list[Outcome]]:
        """Every target's outcomes, one for each round; they take turns."""

        def contender(target: Target) -> Callable[[], Outcome]:
            requests = self.requests_for(cell, target)
            return lambda: self.run(cell, target, requests)

        return report.alternate({target.name: contender(target) for target in targets}, rounds)


def onnxruntime_logits(model: Path, rows: Rows) -> NDArray[np.float32]:
    """What ONNX Runtime in this process computes for rows [n, features]."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: rows.astype(np.float32)})[0]
    return logits


def rows(
    name: str, outcomes: Mapping[str, Sequence[Outcome]], ours: str, bars: Mapping[str, float]
) -> list[report.Row]:
    """Ours against every other server: rate, median latency and p99.

    `bars`: "PEER rate", "PEER p50" or "PEER p99" -> the bar; the others are for information.
    """
    quantities: dict[str, tuple[str, Callable[[Outcome], float]]] = {
        "rate": ("requests/s", lambda outcome: outcome.rate),
        "p50": ("ms", lambda outcome: outcome.quantile(0.5) * 1e3),
        "p99": ("ms", lambda outcome: outcome.quantile(0.99) * 1e3),
    }
    found = []
    for quantity, (unit, read) in quantities.items():
        measured = {server: [read(outcome) for outcome in each] for server, each in outcomes.items()}
        label = name if quantity == "rate" else f"{name}, {quantity}"
        for peer in outcomes:
            if peer != ours:
                bar = bars.get(f"{peer} {quantity}")
                found.append(report.compare(label, measured, ours, peer, unit=unit, bar=bar))
    return found

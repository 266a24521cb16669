"""Two versions' answers to the same rows, compared: pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchyard.serving.request_queue import Scores


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Sums, so that two of them add up."""

    requests: int = 0
    rows: int = 0
    agreeing: int = 0
    """Rows whose largest output is in the same place."""
    difference: float = 0.0
    """Sum over the rows of the mean absolute difference of their outputs."""
    largest: float = 0.0
    """Absolute difference of two outputs."""
    not_finite: int = 0
    """Rows that are left out because an output of either version is not finite."""
    seconds: float = 0.0
    """That the shadow's engine took for all of them."""

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            requests=self.requests + other.requests,
            rows=self.rows + other.rows,
            agreeing=self.agreeing + other.agreeing,
            difference=self.difference + other.difference,
            largest=max(self.largest, other.largest),
            not_finite=self.not_finite + other.not_finite,
            seconds=self.seconds + other.seconds,
        )


def compare(answers: Scores, shadows: Scores, requests: int, seconds: float) -> Comparison:
    """What callers got, and what the shadow says to the same rows: [n, outputs] both, of so many requests."""
    finite = np.isfinite(np.concatenate([answers, shadows], axis=1)).all(axis=1)
    answers, shadows = answers[finite], shadows[finite]
    differences = np.abs(answers.astype(np.float64) - shadows)
    return Comparison(
        requests=requests,
        rows=len(answers),
        agreeing=int((answers.argmax(axis=1) == shadows.argmax(axis=1)).sum()),
        difference=float(differences.mean(axis=1).sum()),
        largest=float(differences.max(initial=0.0)),
        not_finite=int(len(finite) - finite.sum()),
        seconds=seconds,
    )

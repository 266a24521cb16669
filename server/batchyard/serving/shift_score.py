"""How far live data is from training data, in numbers: pure NumPy.

The probe graph gives z = (y - beta) / |gamma| of each folded layer's output y: mean 0 and variance 1 on the training
distribution. A channel's shift is the squared Wasserstein-2 distance between Gaussians with the live and the training
moments, in units of the training variance:

    d^2 = mean(z)^2 + (std(z) - 1)^2

Schneider et al. 2020 (arXiv 2006.16971) found this distance between source and target statistics to go along with the
error under corruption. A layer's shift is the mean over its channels, the model's the mean over its layers.

Both terms come out too large from n rows even if nothing has shifted, so what sampling alone explains is taken off:
E[mean^2] is too large by Var(mean) and E[(std - 1)^2] by Var(std). Both are estimated from the spread between rows,
never between places of one row, which depend on one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowSums:
    """Sums over rows of m, q, m^2, q^2 and m q, with m and q a row's means over space of z and z^2."""

    rows: int
    sums: Floats
    """[5, channels]"""

    @classmethod
    def none(cls, channels: int) -> RowSums:
        """Of no rows."""
        return cls(0, np.zeros((5, channels)))

    @classmethod
    def of(cls, moments: NDArray[np.floating]) -> RowSums:
        """Of the probe's output [rows, 2, channels]; every value finite."""
        m, q = moments[:, 0].astype(np.float64), moments[:, 1].astype(np.float64)
        return cls(len(moments), np.stack([part.sum(axis=0) for part in (m, q, m * m, q * q, m * q)]))

    def __add__(self, other: RowSums) -> RowSums:
        return RowSums(self.rows + other.rows, self.sums + other.sums)


@dataclass(frozen=True)
class ChannelShifts:
    """Each channel's distance from training, [channels]."""

    mean_shift: Floats
    """mean(z): how far the mean has moved, in training standard deviations."""
    std_ratio: Floats
    """std(z): the live standard deviation over the training one."""
    shift: Floats
    """mean_shift^2 + (std_ratio - 1)^2 less its expectation without shift; below 0 by chance."""


def channel_shifts(given: RowSums) -> ChannelShifts:
    """The shift of every channel from two rows or more. Raises ValueError for fewer."""
    n = given.rows
    if n < 2:
        raise ValueError(f"{n} rows given; a spread needs at least 2")
    m, q, *products = given.sums / n
    correction = n / (n - 1)
    var_m, var_q, cov = (correction * (p - e) for p, e in zip(products, (m * m, q * q, m * q), strict=True))
    var_m, var_q = np.maximum(var_m, 0), np.maximum(var_q, 0)
    variance = np.maximum(q - m * m + var_m / n, 0)
    std = np.sqrt(variance)
    # The delta method: the variance's estimate moves with u = q - 2 mean m, the deviation's with u / (2 std).
    var_u = np.maximum(var_q + 4 * m * m * var_m - 4 * m * cov, 0)
    noise_of_std = np.minimum(var_u / (4 * n * np.maximum(variance, np.finfo(np.float64).tiny)), variance)
    return ChannelShifts(m, std, m * m - var_m / n + (std - 1) ** 2 - noise_of_std)


def layer_shift(channels: Floats) -> float:
    """A layer's shift from that of its channels: their mean, at least 0."""
    return max(0.0, float(channels.mean()))

"""Which samples are for testing, where a dataset does not say: the same ones every time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchyard.data.errors import DataError
from batchyard.data.order import permutation

SEED = 20150211
"""Of the shuffle before a split; any number would do, but never another."""


def chosen_for_testing(samples: int, test_share: float) -> NDArray[np.bool_]:
    """True for each sample that is for testing: [samples]. At least one is, and one is not. Raises DataError."""
    if samples < 2:
        raise DataError(f"the dataset has {samples} samples; expected 2 or more to split", "add samples")
    tests = min(max(1, round(samples * test_share)), samples - 1)
    chosen = np.zeros(samples, np.bool_)
    chosen[permutation(SEED, 0, samples)[:tests]] = True
    return chosen

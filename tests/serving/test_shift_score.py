"""The shift score against its definition, and that sampling alone makes none of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from batchyard.artifact.manifest import ProbedLayer
from batchyard.serving.shift_report import LEAST_ROWS, layer_reports
from batchyard.serving.shift_score import RowSums, channel_shifts
from batchyard.serving.shift_window import BLOCK_ROWS, WINDOW_ROWS, Window

RANDOM = np.random.default_rng(5)


def sums_of(z: NDArray[np.float64]) -> RowSums:
    """The sums of z [rows, channels, places]."""
    return RowSums.of(np.stack([z.mean(2), (z * z).mean(2)], axis=1))


def test_a_channels_shift_is_how_far_its_mean_and_its_deviation_have_moved() -> None:
    z = RANDOM.standard_normal((20_000, 4, 1)) * [[1], [1], [1.5], [0.5]] + [[0], [0.5], [0], [-1]]
    shifts = channel_shifts(sums_of(z))
    assert np.allclose(shifts.mean_shift, [0, 0.5, 0, -1], atol=0.05)
    assert np.allclose(shifts.std_ratio, [1, 1, 1.5, 0.5], atol=0.03)
    assert np.allclose(shifts.shift, [0, 0.25, 0.25, 1.25], atol=0.05)


@pytest.mark.parametrize("rows", [LEAST_ROWS, 200])
@pytest.mark.parametrize("places", [1, 9])
def test_without_shift_the_score_is_zero_on_average_however_few_the_rows(rows: int, places: int) -> None:
    # The places of a row are nearly equal: nine of them are worth hardly more than one.
    z = RANDOM.standard_normal((rows, 3000, 1)) + 0.1 * RANDOM.standard_normal((rows, 3000, places))
    shifts = channel_shifts(sums_of(z / z.std()))
    assert abs(shifts.shift.mean()) < 0.1 / rows
    uncorrected = shifts.mean_shift**2 + (shifts.std_ratio - 1) ** 2
    assert uncorrected.mean() > 1 / rows


def test_a_shift_of_a_tenth_of_a_deviation_is_told_from_few_rows() -> None:
    z = RANDOM.standard_normal((200, 300, 1)) + 0.1
    assert channel_shifts(sums_of(z)).shift.mean() == pytest.approx(0.01, rel=0.3)


def test_a_dead_channel_has_shifted_by_its_whole_deviation() -> None:
    shifts = channel_shifts(sums_of(np.zeros((50, 1, 4))))
    assert shifts.shift == pytest.approx(1.0)


def test_sums_add_up_whatever_the_parts() -> None:
    z = RANDOM.standard_normal((100, 3, 2)) + 5
    whole, parts = channel_shifts(sums_of(z)), channel_shifts(sums_of(z[:1]) + sums_of(z[1:40]) + sums_of(z[40:]))
    assert np.allclose(whole.shift, parts.shift, rtol=1e-9)


def test_one_row_has_no_spread() -> None:
    with pytest.raises(ValueError, match="1 rows given"):
        channel_shifts(sums_of(np.zeros((1, 2, 2))))


def test_below_the_least_rows_every_shift_is_unknown() -> None:
    layers = (ProbedLayer(layer="a", channels=(0, 2)), ProbedLayer(layer="b", channels=(1,)))
    z = RANDOM.standard_normal((LEAST_ROWS, 3, 1)) + np.array([[0], [0], [3]])
    assert [report.shift for report in layer_reports(layers, sums_of(z[1:]))] == [None, None]
    a, b = layer_reports(layers, sums_of(z))
    assert a.shift is not None
    assert a.shift < 0.5
    assert b.shift == pytest.approx(9, rel=0.3)
    assert b.channels == (1,)


def test_old_rows_leave_the_window() -> None:
    window, old, new = Window(1), np.full((BLOCK_ROWS, 1, 1), 7.0), np.zeros((BLOCK_ROWS, 1, 1))
    window.add(sums_of(old))
    assert window.total().sums[0] == 7 * BLOCK_ROWS
    for _ in range(WINDOW_ROWS // BLOCK_ROWS):
        window.add(sums_of(new))
    assert window.rows == WINDOW_ROWS
    assert window.total().sums[0] == 0

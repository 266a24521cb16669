"""A long history is thinned to few events, and no spike is lost."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from batchyard.control.thinning import Sketch, kept


def losses(values: list[float]) -> list[Sketch]:
    return [Sketch(sequence, "step_metrics", value) for sequence, value in enumerate(values)]


def test_a_short_history_is_left_as_it_is() -> None:
    assert kept(losses([1.0] * 50), most=50) == [*range(50)]


def test_a_single_spike_in_a_long_history_is_kept() -> None:
    values = [1.0] * 20_000
    values[13_337] = 900.0
    values[4_242] = -5.0

    found = kept(losses(values), most=100)

    assert len(found) <= 100
    assert {13_337, 4_242, 0, 19_999} <= set(found)


def test_a_loss_that_is_not_a_number_is_kept_as_the_outlier_that_it_is() -> None:
    values = [math.nan if step == 777 else 1.0 for step in range(5_000)]

    assert 777 in kept(losses(values), most=60)


def test_of_a_long_log_the_newest_lines_are_kept() -> None:
    lines = [Sketch(sequence, "log_line", None) for sequence in range(500)]

    assert kept(lines, most=20) == [*range(480, 500)]


def test_states_are_all_kept_and_the_order_is_that_of_the_log() -> None:
    sketches: list[Sketch] = []
    for step in range(400):
        kinds = ["step_metrics", "layer_statistics", *(["state_change"] if step % 100 == 0 else [])]
        for kind in kinds:
            value = 1 / (step + 1) if kind == "step_metrics" else None
            sketches.append(Sketch(len(sketches), kind, value))

    found = kept(sketches, most=40)

    assert found == sorted(found)
    stayed = [sketches[sequence].kind for sequence in found]
    assert stayed.count("state_change") == 4
    assert 20 <= stayed.count("layer_statistics") <= 40


@given(st.lists(st.floats(allow_nan=True), max_size=700), st.integers(min_value=8, max_value=60))
def test_never_too_many_and_always_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    found = kept(losses(values), most)

    assert len(found) <= most
    numbers = [value for value in values if not math.isnan(value)]
    if numbers and len(numbers) == len(values):
        assert {min(numbers), max(numbers)} <= {values[place] for place in found}
    if values:
        assert (found[0], found[-1]) == (0, len(values) - 1)

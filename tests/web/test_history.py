"""A long history is thinned to few events, and no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from batchyard.control.records import StateChange, StoredEvent
from batchyard.control.states import State
from batchyard.control.web.history import Thinned
from batchyard.training.events import Event, Layer, LayerStatistics, LogLine, Resumed, StepMetrics


def metrics(step: int, loss: float) -> StepMetrics:
    return StepMetrics(
        step=step, steps=10**6, loss=loss, accuracy=0.5, learning_rate=0.1, samples_per_second=1.0, step_seconds=1.0
    )


def stored(events: Sequence[Event]) -> list[StoredEvent]:
    return [StoredEvent(sequence=i, cursor=f"{i:x}", attempt=1, event=event) for i, event in enumerate(events, 1)]


def thinned(events: Sequence[Event], most: int) -> list[Event]:
    thin = Thinned(most)
    for one in stored(events):
        thin.add([one])
    return [one.event for one in thin.events()]


def test_a_short_history_is_left_as_it_is() -> None:
    events = [metrics(step, 1.0) for step in range(50)]

    assert thinned(events, most=50) == events


def test_what_a_resume_makes_void_goes_even_if_it_was_read_before() -> None:
    before, resumed, after = [metrics(step, 1.0) for step in (1, 2, 3)], Resumed(step=1), metrics(2, 2.0)

    assert thinned([*before, resumed, after], most=50) == [before[0], resumed, after]


def test_a_single_spike_in_a_long_history_is_kept() -> None:
    losses = [1.0] * 20_000
    losses[13_337] = 900.0
    losses[4_242] = -5.0

    kept = thinned([metrics(step, loss) for step, loss in enumerate(losses)], most=100)

    assert len(kept) <= 100
    assert {13_337, 4_242, 0, 19_999} <= {event.step for event in kept if isinstance(event, StepMetrics)}


def test_a_loss_that_is_not_a_number_is_kept_as_the_outlier_that_it_is() -> None:
    events = [metrics(step, math.nan if step == 777 else 1.0) for step in range(5_000)]

    kept = thinned(events, most=60)

    assert any(isinstance(event, StepMetrics) and math.isnan(event.loss) for event in kept)


def test_of_a_long_log_the_newest_lines_are_kept() -> None:
    kept = thinned([LogLine(level="INFO", text=str(i)) for i in range(500)], most=20)

    assert [event.text for event in kept if isinstance(event, LogLine)] == [str(i) for i in range(480, 500)]


def test_states_are_all_kept_and_the_order_is_that_of_the_log() -> None:
    layer = Layer(name="a", p15=0, p50=0, p85=0, saturated=0, dead=0)
    events: list[Event] = []
    for step in range(400):
        events += [metrics(step, 1 / (step + 1)), LayerStatistics(step=step, layers=(layer,))]
        if step % 100 == 0:
            events.append(StateChange(state=State.RUNNING))
    thin = Thinned(40)
    thin.add(stored(events))

    kept = thin.events()

    assert [one.sequence for one in kept] == sorted(one.sequence for one in kept)
    assert sum(isinstance(one.event, StateChange) for one in kept) == 4
    assert 20 <= sum(isinstance(one.event, LayerStatistics) for one in kept) <= 40


@given(st.lists(st.floats(allow_nan=True), max_size=700), st.integers(min_value=8, max_value=60))
def test_never_too_many_and_always_the_ends_and_the_extremes(losses: list[float], most: int) -> None:
    kept = [e for e in thinned([metrics(i, loss) for i, loss in enumerate(losses)], most) if isinstance(e, StepMetrics)]

    assert len(kept) <= most
    finite = [loss for loss in losses if not math.isnan(loss)]
    if finite:
        assert {min(finite), max(finite)} <= {event.loss for event in kept} or any(math.isnan(loss) for loss in losses)
    if losses:
        assert (kept[0].step, kept[-1].step) == (0, len(losses) - 1)

"""The inference plane's metrics as points over time: nothing is lost or made up between two readings."""

from __future__ import annotations

import pytest

from batchyard.control.traffic.history import REMEMBERED_SECONDS, History
from batchyard.control.traffic.samples import (
    LATENCY,
    REQUESTS,
    Key,
    Sample,
    VersionSample,
    quantile,
    read,
    since,
    total,
)

INFINITE = float("inf")
ONE: Key = ("mnist", "1")
TEXT = """\
# TYPE batchyard_inference_requests counter
batchyard_inference_requests_total{model="mnist",version="1"} 7.0
# TYPE batchyard_inference_failures counter
batchyard_inference_failures_total{code="UNAVAILABLE",model="mnist",version="1"} 2.0
# TYPE batchyard_inference_request_duration_seconds histogram
batchyard_inference_request_duration_seconds_bucket{le="0.001",model="mnist",version="1"} 3.0
batchyard_inference_request_duration_seconds_bucket{le="+Inf",model="mnist",version="1"} 5.0
batchyard_inference_request_duration_seconds_count{model="mnist",version="1"} 5.0
# TYPE batchyard_inference_layer_shift gauge
batchyard_inference_layer_shift{layer="norm1",model="mnist",version="1"} 0.25
# TYPE batchyard_inference_control_connected gauge
batchyard_inference_control_connected 1.0
# TYPE another_thing counter
another_thing_total{model="mnist",version="1"} 9.0
"""


def requests(count: float, key: Key = ONE) -> Sample:
    return Sample(versions={key: VersionSample(counted={REQUESTS: (count,)})}, bounds={})


def counts(history: History, stride: int = 1, seconds: float = 3600) -> list[float]:
    return [sum(point.versions.get(ONE, {}).get(REQUESTS, ())) for point in history.points(seconds, stride)]


def test_a_planes_text_is_read_and_what_is_not_asked_for_is_left_out() -> None:
    found = read(TEXT).versions[ONE]

    assert found.counted == {REQUESTS: (7.0,), "refused UNAVAILABLE": (2.0,), LATENCY: (3.0, 2.0)}
    assert found.layers == {"norm1": 0.25}
    assert read(TEXT).bounds == {LATENCY: (0.001, INFINITE)}


def test_what_was_counted_before_this_process_began_is_not_its_to_tell() -> None:
    history = History()
    for number, count in enumerate((100, 103, 103, 110)):
        history.add(2.0 * number, requests(count))

    assert counts(history) == [3, 0, 7]


def test_a_plane_that_was_started_again_loses_nothing_that_was_read() -> None:
    history = History()
    for number, count in enumerate((10, 15, 2, 6)):
        history.add(2.0 * number, requests(count))

    assert counts(history) == [5, 2, 4]


def test_a_version_that_comes_later_is_counted_from_its_first_request() -> None:
    history = History()
    history.add(0.0, Sample(versions={}, bounds={}))
    history.add(2.0, requests(4))

    assert counts(history) == [4]


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_fewer_points_tell_of_the_same_requests(stride: int) -> None:
    history = History()
    for number in range(31):
        history.add(2.0 * number, requests(number * number))

    told = list(history.points(3600, stride))
    first, last = (told[0].time - told[0].seconds) / 2, told[-1].time / 2
    assert sum(counts(history, stride)) == last**2 - first**2
    assert {point.seconds for point in told} == {2.0 * stride}


def test_a_window_shows_its_newest_points_and_only_those_that_are_new() -> None:
    history = History()
    for number in range(100):
        history.add(2.0 * number, requests(number))

    assert len(list(history.points(60, 1))) == 30
    assert [point.time for point in history.points(60, 1, after=98)] == [196.0, 198.0]


def test_a_version_that_is_served_no_more_is_forgotten_after_a_while() -> None:
    history = History()
    history.add(0.0, requests(1))
    history.add(2.0, requests(3))
    for time in (4.0, 4.0 + REMEMBERED_SECONDS):
        history.add(time, Sample(versions={}, bounds={}))

    points = list(history.points(3600, 1))
    assert [ONE in point.versions for point in points] == [True, True, False]


def test_counters_that_fell_are_all_new_and_sums_add_up() -> None:
    assert since({"a": (5.0,), "b": (1.0, 2.0)}, {"a": (3.0,), "b": (2.0, 0.0)}) == {"a": (2.0,), "b": (1.0, 2.0)}
    assert total([{"a": (5.0,)}, {"a": (2.0,), "c": (1.0, 1.0)}]) == {"a": (7.0,), "c": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 1.0), (0.25, 0.5), (0.75, 2.0), (1.0, 2.0)],
    ids=["at a bound", "within a bucket", "beyond the last bound", "the largest"],
)  # fmt: skip
def test_quantiles_are_those_of_prometheus(share: float, expected: float) -> None:
    assert quantile(share, (2.0, 0.0, 2.0), (1.0, 2.0, INFINITE)) == expected


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="empty"):
        quantile(0.5, (0.0, 0.0), (1.0, INFINITE))

"""Which engines serve, given their times."""

from __future__ import annotations

from batchyard.serving.engines.choice import batch_sizes, choose
from batchyard.serving.engines.timings import Share, Trial

SIZES = batch_sizes(16)


def trial(engine: str, *milliseconds: float, threads: int = 1, passed: bool = True) -> Trial:
    """Times for 1, 2, 4, ... rows."""
    seconds = {rows: value / 1000 for rows, value in zip(SIZES, milliseconds, strict=False)}
    return Trial(engine=engine, threads=threads, passed=passed, reason="" if passed else "wrong", seconds=seconds)


def chosen(*trials: Trial) -> list[tuple[int, str, int]]:
    return [(share.up_to, share.engine, share.threads) for share in choose(trials, 16)]


def test_batches_are_powers_of_two_and_the_largest() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(16) == [1, 2, 4, 8, 16]
    assert batch_sizes(20) == [1, 2, 4, 8, 16, 20]


def test_the_fastest_serves_all_sizes() -> None:
    assert chosen(trial("slow", 2, 3, 5, 9, 17), trial("fast", 1, 2, 3, 5, 9)) == [(16, "fast", 1)]


def test_among_equals_the_first_in_line_serves_with_the_fewest_threads() -> None:
    first, again = (10, 20, 40, 80, 160), (9.8, 19.8, 39.5, 79, 158)
    assert chosen(trial("first", *again, threads=2), trial("first", *first)) == [(16, "first", 1)]
    assert chosen(trial("first", *first), trial("second", *again)) == [(16, "first", 1)]
    clearly = [value * 0.95 for value in first]
    assert chosen(trial("first", *first), trial("second", *clearly)) == [(16, "second", 1)]


def test_one_that_is_wrong_does_not_serve_however_fast() -> None:
    assert chosen(trial("wrong", 1, 1, 1, 1, 1, passed=False), trial("right", 4, 4, 4, 4, 4)) == [(16, "right", 1)]


def test_nobody_serves_when_nobody_passed() -> None:
    assert choose([trial("wrong", 1, 1, 1, 1, 1, passed=False)], 16) == ()


def test_two_engines_share_the_sizes_when_each_is_clearly_faster_in_its_own() -> None:
    low, high = trial("low", 1, 2, 4, 20, 40), trial("high", 5, 5, 6, 7, 8)
    assert chosen(low, high) == [(4, "low", 1), (16, "high", 1)]


def test_a_slight_lead_at_some_sizes_is_not_worth_the_weights_twice() -> None:
    assert chosen(trial("low", 3.0, 4, 5, 8, 13), trial("high", 3.3, 4.4, 5, 7, 11)) == [(16, "high", 1)]


def test_all_cores_work_only_where_one_takes_long() -> None:
    quick, slow = (0.1, 0.2, 0.3, 0.5, 0.9), (10, 20, 30, 50, 90)
    half = [value / 2 for value in quick], [value / 2 for value in slow]
    assert chosen(trial("it", *quick), trial("it", *half[0], threads=2)) == [(16, "it", 1)]
    assert chosen(trial("it", *slow), trial("it", *half[1], threads=2)) == [(16, "it", 2)]


def test_sizes_for_which_the_time_was_up_count_in_proportion() -> None:
    cut_short = trial("slow", 10, 20, 40)
    assert cut_short.seconds_for(16) == 0.160
    assert choose([cut_short, trial("fast", 11, 21, 39, 60, 90)], 16) == (Share(up_to=16, engine="fast", threads=1),)

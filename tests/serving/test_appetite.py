"""How much is taken from a transport in a turn: little, unless what waits in it grows."""

from __future__ import annotations

from batchyard.serving.appetite import ALL, LOOK_EVERY, MOST_GROWTH, USUAL, Appetite


class Transport:
    """Calls that wait, and callers who have left."""

    def __init__(self) -> None:
        self.arrived = self.waiting = self.looked = 0
        self.equal = True
        self.appetite = Appetite(self.look, lambda: self.equal)

    def look(self) -> int:
        self.looked += 1
        return self.arrived

    def come(self, calls: int) -> None:
        self.arrived += calls
        self.waiting += calls

    def turn(self, *, left: int = 0) -> int:
        """Takes what there is an appetite for, `left` of it no calls; returns how many calls were taken."""
        asked = self.appetite.next()
        calls = min(asked - left, self.waiting)
        self.waiting -= calls
        self.appetite.took(calls + left, calls)
        return calls


def test_a_turn_takes_a_batch() -> None:
    transport = Transport()
    transport.come(1000)
    assert [transport.turn() for _ in range(9)] == [USUAL] * 7 + [1000 - 7 * USUAL, 0]


def test_what_waits_and_does_not_grow_stays_where_it_is() -> None:
    transport = Transport()
    transport.come(3 * MOST_GROWTH)
    for _ in range(5 * LOOK_EVERY):
        assert transport.turn() == USUAL
        transport.come(USUAL)
    assert transport.looked <= 6


def test_what_grows_is_taken_whole() -> None:
    transport = Transport()
    transport.come(USUAL)
    taken: list[int] = []
    while transport.waiting <= 3 * MOST_GROWTH and len(taken) < 10 * LOOK_EVERY:
        transport.come(3 * USUAL)
        taken.append(transport.turn())
    assert max(taken) > MOST_GROWTH
    assert transport.waiting <= MOST_GROWTH + 3 * USUAL * LOOK_EVERY


def test_callers_who_left_do_not_hide_it() -> None:
    transport = Transport()
    transport.come(USUAL)
    taken: list[int] = []
    for _ in range(10 * LOOK_EVERY):
        transport.come(3 * USUAL)
        taken.append(transport.turn(left=USUAL // 2))
    assert max(taken) > MOST_GROWTH


def test_a_transport_that_was_found_empty_is_forgotten() -> None:
    transport = Transport()
    for _ in range(5):
        transport.come(3 * MOST_GROWTH)
        while transport.waiting:
            assert transport.turn() <= USUAL
        assert transport.turn() == 0


def test_one_that_is_never_full_is_not_looked_into() -> None:
    transport = Transport()
    for _ in range(5 * LOOK_EVERY):
        transport.come(USUAL - 1)
        transport.turn()
    assert transport.looked == 0


def test_where_calls_are_not_equal_all_are_taken() -> None:
    transport = Transport()
    transport.equal = False
    transport.come(5000)
    assert [transport.turn() for _ in range(3)] == [USUAL, 5000 - USUAL, 0]
    transport.come(2 * ALL)
    assert transport.turn() == USUAL
    assert transport.turn() == ALL

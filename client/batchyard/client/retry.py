"""When a call that failed is made again, and when it is given up: decisions only, nothing here waits."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from batchyard.client import errors

FIRST_DELAY = 0.05
LONGEST_DELAY = 2.0
PASSING = {"LOADING", "STARTING"}
"""Reasons of a service that is at work on becoming available."""


def delays() -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with jitter so that many clients do not come back at once."""
    delay = FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, LONGEST_DELAY)


class Patience:
    """What the failures of one call lead to. Time runs from the making of it."""

    def __init__(self, *, timeout: float, retry_for: float) -> None:
        """`timeout` spans all tries; for `retry_for` an UNAVAILABLE service is tried again (seconds; 0: never), and
        until the timeout where it is about to be available.
        """
        began = time.monotonic()
        self._deadline, self._give_up = began + timeout, min(began + timeout, began + retry_for)
        self._retries = retry_for > 0
        self._delays = delays()

    @property
    def left(self) -> float:
        """Seconds for the next try."""
        return max(0.001, self._deadline - time.monotonic())

    def pause_after(self, failure: errors.RpcError) -> float:
        """Seconds to wait before the next try. Raises `failure` where there is to be none."""
        pause = max(next(self._delays), failure.retry_delay or 0.0)
        give_up = self._deadline if failure.reason in PASSING and self._retries else self._give_up
        if not isinstance(failure, errors.UnavailableError) or time.monotonic() + pause > give_up:
            raise failure
        return pause

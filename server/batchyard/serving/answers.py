"""Where the outcome of a request goes: to a callback, to a future, or to a part of something larger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from batchyard.serving.request_queue import Answer, Request, Scores


class Whole:
    """A request larger than a batch, in parts; the first that fails takes the others along."""

    __slots__ = ("_answer", "_answered", "_withdraw", "parts")

    def __init__(self, answer: Answer, withdraw: Callable[[Whole], None]) -> None:
        """`withdraw` takes those parts that still wait out of the queue."""
        self.parts: list[Request] = []
        """In the order of the rows."""
        self._answer = answer
        self._withdraw = withdraw
        self._answered: dict[int, Scores] = {}

    def answer_to_next_part(self) -> Answer:
        """For the part that is added to `parts` next."""
        return partial(self._part_answered, len(self.parts))

    def _part_answered(self, index: int, outcome: Scores | Exception) -> None:
        if isinstance(outcome, Exception):
            self._withdraw(self)
            self._answer(outcome)
            return
        self._answered[index] = outcome
        if len(self._answered) == len(self.parts):
            self._answer(np.concatenate([self._answered[part] for part in range(len(self.parts))]))


Ticket = Request | Whole
"""What a caller has to withdraw its request with."""


def settle(future: asyncio.Future[Any], outcome: Any) -> None:
    """Gives a future its result, or its exception, unless it has one or its waiter has left."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)

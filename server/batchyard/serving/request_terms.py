"""What a request asks of the queue: its deadline, its timeout and its priority.

Parameters by Triton's names: `timeout` in microseconds, 0 none; `priority`, 1 the highest, 0 the model's default.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.oip.messages import InferParameter
from batchyard.serving.batching import BatchPolicy

Parameters = Mapping[str, InferParameter]
NO_DEADLINE_SECONDS = 10_000_000.0
"""Transports give a huge number, or none, for a call without a deadline."""


class Terms(NamedTuple):
    """Batcher.submit's arguments beside the rows; times are the event loop's."""

    deadline: float | None = None
    level: int = 0
    late_at: float | None = None


NO_TERMS = Terms()


def read_terms(parameters: Parameters, remaining: float | None, policy: BatchPolicy, model: str) -> Terms:
    """The call's deadline, or the request's or the model's timeout where that is earlier, and the priority.

    `remaining`: the seconds until the call's deadline, as the transport tells them.
    Raises InvalidInputError naming the parameter.
    """
    if remaining is not None and remaining > NO_DEADLINE_SECONDS:
        remaining = None
    timeout, level = policy.timeout, 0
    if parameters:
        timeout, level = _timeout(parameters, policy, model), _level(parameters, policy, model)
    if remaining is None and timeout is None:
        return NO_TERMS if not level else Terms(level=level)
    now = asyncio.get_running_loop().time()
    deadline = None if remaining is None else now + remaining
    if timeout is None:
        return Terms(deadline, level)
    if policy.delay_late:
        return Terms(deadline, level, now + timeout)
    return Terms(now + timeout if remaining is None else now + min(timeout, remaining), level)


def _timeout(parameters: Parameters, policy: BatchPolicy, model: str) -> float | None:
    given = _integer(parameters, "timeout", "microseconds, 0 or more (0: none)", model)
    if not given or not policy.override_timeout:
        return policy.timeout
    return given / 1e6


def _level(parameters: Parameters, policy: BatchPolicy, model: str) -> int:
    """0: the default. Without levels a priority has no effect, as in Triton."""
    given = _integer(parameters, "priority", "1, the highest, or more (0: the model's default)", model)
    if given > policy.levels > 1:
        problem = f"model {model}: got {given}; the model has levels 1, the highest, to {policy.levels}"
        raise InvalidInputError([FieldViolation("parameters[priority]", problem)])
    return given if policy.levels > 1 else 0


def _integer(parameters: Parameters, name: str, meaning: str, model: str) -> int:
    """0 where the parameter is absent."""
    if name not in parameters:
        return 0
    given = parameters[name]
    kind = given.WhichOneof("parameter_choice")
    value = getattr(given, kind) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        problem = f"model {model}: expected int64_param or uint64_param, {meaning}"
        raise InvalidInputError([FieldViolation(f"parameters[{name}]", problem)])
    return int(value)

"""Events as JSON that every database and parser accepts, and back.

JSON has no NaN and no infinity, and a diverging loss is both: they are stored as {"$float": "nan"}.
"""

from __future__ import annotations

import math
from typing import Any

from batchyard.control.records import Failure, StateChange
from batchyard.control.states import State
from batchyard.training import events
from batchyard.training.events import Event

_FLOAT = "$float"


def dump(event: Event) -> Any:
    """JSON-ready; `load` reads it."""
    return _encode(event.to_json())


def load(payload: Any) -> Event:
    """The event that `dump` was given."""
    values = _decode(payload)
    if values["kind"] != StateChange.kind:
        return events.from_json(values)
    failure = Failure(**values["failure"]) if values["failure"] else None
    return StateChange(
        time=values["time"],
        state=State(values["state"]),
        failure=failure,
        model_version=values["model_version"],
    )


def number(text: str | float) -> float:
    """A number of a payload as a database gives it out of JSON, as text or number; NaN for what is not a finite one."""
    try:
        return float(text)
    except ValueError:  # it is stored as {"$float": ...}
        return math.nan


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if isinstance(value, dict):
        return {key: _encode(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(part) for part in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if _FLOAT in value:
            return float(value[_FLOAT])
        return {key: _decode(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_decode(part) for part in value]
    return value

"""How the client waits: here for nothing but the answer. aio/waiting.py is its twin for an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

sleep = time.sleep


def begin(method: Any, request: Any, *, timeout: float, metadata: Any) -> Any:
    """Makes a unary call without waiting for its answer."""
    return method.future(request, timeout=timeout, metadata=metadata)


def answer(call: Any) -> Any:
    """What a call that was begun brings. Raises grpc.RpcError."""
    return call.result()


def in_thread(function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Work on files: nobody else waits here."""
    return function(*args, **kwargs)

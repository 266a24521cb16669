"""How the asynchronous client waits: others on the event loop go on meanwhile. ../waiting.py is its twin."""

from __future__ import annotations

import asyncio
from typing import Any

sleep = asyncio.sleep
in_thread = asyncio.to_thread


def begin(method: Any, request: Any, *, timeout: float, metadata: Any) -> Any:
    """Makes a unary call without waiting for its answer."""
    return method(request, timeout=timeout, metadata=metadata)


async def answer(call: Any) -> Any:
    """What a call that was begun brings. Raises grpc.RpcError."""
    return await call

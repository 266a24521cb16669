"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

ALIVE_SECONDS = 15.0
"""The longest silence: a proxy keeps the connection, and a reader that is gone is noticed."""
MESSAGES_PER_WRITE = 100

T = TypeVar("T")


def to_json(message: Message, *, indent: int | None = None) -> str:
    """A message in protobuf's JSON mapping, with every field, named as in the .proto file (and the job file)."""
    return json_format.MessageToJson(
        message, indent=indent, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


class EventStream:
    """One response that goes on. Once it is prepared, nothing but more messages can follow."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

    async def open(self) -> None:
        """Sends the header."""
        await self.response.prepare(self._request)
        await self.response.write(b": batchyard\n\n")

    async def send(self, messages: Iterable[tuple[str, Message]]) -> None:
        """Sends (id, message) pairs; an empty id is left out. Raises ConnectionResetError when the reader is gone."""
        pending = list(messages)
        for start in range(0, len(pending), MESSAGES_PER_WRITE):
            # Aside, so that a long history of one reader does not hold up every other.
            block = await asyncio.to_thread(_format, pending[start : start + MESSAGES_PER_WRITE])
            await self.response.write(block)

    async def alive_until(self, waited: Awaitable[T]) -> T:
        """What is waited for; meanwhile the reader is told that this end is still there."""
        task = asyncio.ensure_future(waited)
        try:
            while not (await asyncio.wait({task}, timeout=ALIVE_SECONDS))[0]:
                await self.response.write(b": alive\n\n")
            return task.result()
        finally:
            task.cancel()

    async def close(self) -> None:
        """Ends the response."""
        await self.response.write_eof()


def _format(messages: list[tuple[str, Message]]) -> bytes:
    parts = [f"{f'id: {place}' + chr(10) if place else ''}data: {to_json(message)}\n\n" for place, message in messages]
    return "".join(parts).encode()

"""An asynchronous client behind the synchronous one's interface, so that the same tests are put to both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from batchyard.client import AsyncClient, Client


@contextmanager
def stepped(make: Callable[[], AsyncClient]) -> Iterator[Client]:
    """A client whose event loop runs only during its calls."""
    with asyncio.Runner() as runner:

        async def open_it() -> AsyncClient:
            return await make().__aenter__()

        client = runner.run(open_it())
        try:
            yield cast("Client", Stepped(client, runner))
        finally:
            runner.run(client.close())


class Stepped:
    """Any part of an asynchronous client: what it returns is awaited, what it iterates over is stepped through."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner, self._runner = inner, runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if inspect.isroutine(found):
            return lambda *args, **kwargs: self._settle(found(*args, **kwargs))
        module = type(found).__module__
        return Stepped(found, self._runner) if module.startswith("batchyard.client.aio") else found

    def _settle(self, given: Any) -> Any:
        if isinstance(given, AsyncIterator):
            return Steps(given, self._runner)
        return self._runner.run(_awaited(given)) if inspect.isawaitable(given) else given


class Steps:
    """The items of an asynchronous iterator."""

    def __init__(self, items: AsyncIterator[Any], runner: asyncio.Runner) -> None:
        self._items, self._runner = items, runner

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        try:
            return self._runner.run(_awaited(anext(self._items)))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Ends an asynchronous generator."""
        assert isinstance(self._items, AsyncGenerator)
        self._runner.run(_awaited(self._items.aclose()))


async def _awaited(given: Awaitable[Any]) -> Any:
    return await given

"""One unary method on pygrpc-native's low-level front, without a task for each call; every other method on grpcio.

The front speaks HTTP/2 outside of Python and hands over whole requests, many at a time. What came while the event loop
was at work is taken in the loop's next turn. Only a loop that finds nothing more leaves the waiting to a thread, which
wakes it again: under load no request changes threads. Methods that the front does not have, streams and reflection
among them, it passes on to a grpcio server behind a Unix socket in a folder that only this user can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import grpc

from batchyard.endpoint.errors import OverloadedError, UnavailableError
from batchyard.endpoint.status import DETAILS_KEY, describe, malformed
from batchyard.serving.appetite import USUAL, Appetite
from batchyard.serving.engines.timings import cores

MOST_IO_THREADS = 2
"""Each can keep up with the event loop. On a single core the second costs a sixth of the rate, and with 2,048 requests
under way more than a quarter."""
FLUSH_SECONDS = 0.1
"""For the front to write its last answers before it is closed: it drops those that it has not, and does not tell."""

Done = Callable[[bytes | Exception], None]
Metadata = Iterable[tuple[str, str | bytes]]
Details = tuple[Metadata, str, float | None]
"""Metadata, peer, seconds until the deadline."""
Status = tuple[int, str, list[tuple[str, bytes]]]
"""A call's end without an answer: code, message, trailing metadata."""
Event = tuple[int, int, int, bytes, Any, Details | None]
"""Kind, call, method, the request's bytes, the caller, and the call's details; without them: the caller has left."""


class Cancellable(Protocol):
    """A call under way."""

    def cancel(self) -> None:
        """The caller has left."""


def _never(packed: bytes) -> None:
    """No request is refused unread."""


def _always() -> bool:
    """No call goes before another."""
    return True


class Method(NamedTuple):
    """A unary method that is called back."""

    path: str
    """/package.Service/Method."""
    parse: Callable[[bytes], Any]
    begin: Callable[[Any, float | None, Metadata, Done], Cancellable]
    """Takes the request, the seconds that it has (None: any), its metadata, and what is to be called once."""
    refusal: Callable[[bytes], Exception | None] = _never
    """Whether a request is refused for overload, from its bytes; asked once a call was, and until one is not. In an
    overload most are, and to parse them takes the time from those that are answered. One and the same error for many
    calls is encoded once."""
    equal: Callable[[], bool] = _always
    """Whether calls are answered in the order in which they come, whatever they ask for."""


class FrontServer:
    """Has the interface of a grpc.aio server, as far as it is used here. Belongs to the event loop that starts it."""

    def __init__(
        self,
        method: Method,
        admit: Callable[[Metadata], None] | None,
        behind: Any,
        max_message_bytes: int,
    ) -> None:
        """`admit` raises a domain error for a call whose metadata forbids it; None: all may. `behind`: grpc.aio's."""
        self._method = method
        self._admit = admit
        self._behind = behind
        self._max_message_bytes = max_message_bytes
        self._front: Any = None
        self._appetite = Appetite(self._calls_so_far, method.equal)
        self._loop: asyncio.AbstractEventLoop
        self._calls: dict[int, Cancellable | None] = {}
        """Under way; None: it has not begun wholly."""
        self._at_rest = asyncio.Event()
        self._overloaded = False
        """Whether a call was refused for overload, and none was let in since."""
        self._refusal: tuple[Exception, Status] | None = None
        """What was told last to a call that was not parsed."""
        self._stopping = False
        self._answered_late = False
        """Whether anything was answered after stop() was called."""
        self._folder = tempfile.mkdtemp(prefix="batchyard-")
        self._waiter = threading.Thread(target=self._wait, name="batchyard-front", daemon=True)
        self._found_nothing = threading.Semaphore(0)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """For every method but the one."""
        self._behind.add_registered_method_handlers(service, handlers)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """For every method but the one."""
        self._behind.add_generic_rpc_handlers(handlers)

    def add_insecure_port(self, address: str) -> int:
        """Binds HOST:PORT. Raises RuntimeError when that is impossible."""
        from pygrpc_native import NativeGrpcFront

        try:
            self._front = NativeGrpcFront(
                address,
                [(self._method.path, False)],
                io_threads=min(MOST_IO_THREADS, cores()),
                call_details=True,
                metrics=True,
                keepalive_permit_without_calls=False,
            )
        except OSError as error:
            raise RuntimeError(str(error)) from error
        return int(self._front.bound_port)

    async def start(self) -> None:
        """Answers from now on."""
        self._loop = asyncio.get_running_loop()
        socket = f"{self._folder}/behind.sock"
        self._behind.add_insecure_port(f"unix:{socket}")
        await self._behind.start()
        self._front.set_fallback(socket)
        self._front.start()
        self._waiter.start()

    async def stop(self, grace: float) -> None:
        """Refuses new calls at once, and those under way after `grace` seconds."""
        self._stopping = True
        behind = asyncio.ensure_future(self._behind.stop(grace))
        if self._calls:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._at_rest.wait(), grace)
        for call_id, call in list(self._calls.items()):
            if call is not None:
                call.cancel()
            self._finish(call_id, _shutting_down())
        await behind
        if self._answered_late:
            await asyncio.sleep(FLUSH_SECONDS)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._front is not None:
            self._front.close()
        if self._waiter.is_alive():
            self._waiter.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        """On a thread of its own: wakes the loop, and waits until the loop waits."""
        while (events := self._front.recv_batch_details(USUAL)) is not None:
            try:
                self._loop.call_soon_threadsafe(self._take, events)
            except RuntimeError:  # the loop was closed without stop()
                return
            self._found_nothing.acquire()

    def _take(self, events: Sequence[Event]) -> None:
        calls = len(events)
        for _, call_id, _, packed, _, details in events:
            if details is not None:
                self._begin(call_id, packed, details)
                continue
            calls -= 1
            if (call := self._forget(call_id)) is not None:
                call.cancel()
        self._appetite.took(len(events), calls)
        self._loop.call_soon(self._poll)  # after the batch that these calls may have put on the loop

    def _poll(self) -> None:
        if events := self._front.recv_batch_details(self._appetite.next(), 0):
            self._take(events)
        else:
            self._appetite.took(0, 0)
            self._found_nothing.release()

    def _calls_so_far(self) -> int:
        return int(self._front.metrics()["methods"][self._method.path]["started"])

    def _begin(self, call_id: int, packed: bytes, details: Details) -> None:
        if self._overloaded and self._turned_away(call_id, packed, details[0]):
            return
        self._calls[call_id] = None
        finish = partial(self._finish, call_id)
        try:
            metadata, _, seconds = details
            self._check(packed, metadata)
            try:
                request = self._method.parse(packed)
            except Exception as error:  # DecodeError, and whatever else: the bytes are at fault in any case
                raise malformed(len(packed)) from error
            call = self._method.begin(request, seconds, metadata, finish)
        except Exception as error:
            finish(error)
            return
        if call_id in self._calls:
            self._calls[call_id] = call

    def _turned_away(self, call_id: int, packed: bytes, metadata: Metadata) -> bool:
        """Whether the call is refused without its request being parsed."""
        try:
            self._check(packed, metadata)
        except Exception:
            return False  # it is told when it begins
        refusal = self._method.refusal(packed)
        self._overloaded = refusal is not None
        if refusal is None:
            return False
        if self._refusal is None or self._refusal[0] is not refusal:
            self._refusal = refusal, self._status_of(refusal)
        self._front.fail(call_id, *self._refusal[1])
        return True

    def _check(self, packed: bytes, metadata: Metadata) -> None:
        """Whether the call may begin."""
        if self._stopping:
            raise _shutting_down()
        if self._admit is not None:
            self._admit(metadata)
        if len(packed) > self._max_message_bytes:
            raise _TooLargeError(f"Received message larger than max ({len(packed)} vs. {self._max_message_bytes})")

    def _finish(self, call_id: int, outcome: bytes | Exception) -> None:
        self._forget(call_id)
        if isinstance(outcome, Exception):
            self._fail(call_id, outcome)
        else:
            self._front.respond(call_id, outcome)

    def _forget(self, call_id: int) -> Cancellable | None:
        call = self._calls.pop(call_id, None)
        if self._stopping:
            self._answered_late = True
            if not self._calls:
                self._at_rest.set()
        return call

    def _fail(self, call_id: int, error: Exception) -> None:
        self._overloaded = isinstance(error, OverloadedError)
        self._front.fail(call_id, *self._status_of(error))

    def _status_of(self, error: Exception) -> Status:
        if isinstance(error, _TooLargeError):
            return grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], str(error), []
        code, status = describe(error, self._method.path)
        return code.value[0], status.message, [(DETAILS_KEY, status.SerializeToString())]


class _TooLargeError(Exception):
    """As grpcio tells it, which reads the announced length: a status without details."""


def _shutting_down() -> UnavailableError:
    return UnavailableError("this server is shutting down; try another", reason="SHUTTING_DOWN")

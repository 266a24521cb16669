"""The inference plane beside the control plane: started, watched, started again when it dies, stopped with us.

It outlives a control plane that is killed, and goes on serving. The next one takes it over if it would start the very
same command; else it stops it and starts its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchyard.control.inference_flags import InferenceFlags
from batchyard.control.process_watch import WatchedProcess, command_of
from batchyard.endpoint.security import Security

log = logging.getLogger(__name__)

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
"""More than the inference plane takes to drain."""
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.5, 30.0
"""Seconds; doubled with each death, begun again after a life of a minute."""
STEADY_SECONDS = 60.0
_POLL_SECONDS = 0.05


class InferenceError(Exception):
    """The inference plane does not come up."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """What the inference plane is told."""

    control: str
    """HOST:PORT of the control plane."""
    control_token_file: Path | None
    cache: Path
    ready_file: Path
    """What it writes once it answers."""
    pid_file: Path
    """What we write when we start it, for a control plane that comes after us."""
    log: Path
    grpc: str
    http: str
    security: Security
    flags: InferenceFlags = field(default_factory=InferenceFlags)

    def command(self) -> list[str]:
        """The whole command line."""
        given: dict[str, object] = {
            "--control": self.control,
            "--control-token-file": self.control_token_file,
            "--cache": self.cache,
            "--ready-file": self.ready_file,
            "--grpc": self.grpc,
            "--http": self.http,
            "--tls-cert": self.security.tls_cert,
            "--tls-key": self.security.tls_key,
            "--token-file": self.security.token_file,
        }
        flags = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
        insecure = ["--insecure"] if self.security.insecure else []
        return [sys.executable, "-m", "batchyard.serving", *flags, *self.flags.words(), *insecure]


class InferenceChild:
    """One inference plane, always."""

    def __init__(self, options: InferenceOptions, changed: Callable[[], None]) -> None:
        """`changed` is called when a new process has taken over."""
        self._options = options
        self._changed = changed
        self._process: WatchedProcess | None = None
        self._supervising: asyncio.Task[None] | None = None
        self.pid = 0
        self.grpc = ""
        self.http = ""

    async def start(self) -> None:
        """Returns when it answers. Raises InferenceError when it does not."""
        self._process = await self._take_over() or self._spawn()
        await self._ready(self._process)
        # From now on clients know these addresses: whoever follows must have the same.
        self._options = dataclasses.replace(self._options, grpc=self.grpc, http=self.http)
        self._supervising = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Stops it; what is in flight is answered."""
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
        if self._process is not None:
            await self._process.stop(STOP_SECONDS)
            self._options.pid_file.unlink(missing_ok=True)

    async def _take_over(self) -> WatchedProcess | None:
        """What an earlier control plane left running, if it is just what we would start."""
        try:
            pid = int(self._options.pid_file.read_text())
            process = WatchedProcess(pid)
        except (OSError, ValueError):
            return None
        command = command_of(pid)  # pids come round again: is this one ours?
        if "batchyard.serving" not in command or str(self._options.ready_file) not in command:
            process.forget()
            return None
        if command == self._options.command():
            log.info("taking over the inference plane that runs already, process %d", process.pid)
            return process
        log.info("stopping an inference plane of an earlier control plane, process %d", process.pid)
        await process.stop(STOP_SECONDS)
        return None

    def _spawn(self) -> WatchedProcess:
        self._options.ready_file.unlink(missing_ok=True)
        process = WatchedProcess.start(self._options.command(), self._options.log)
        self._options.pid_file.write_text(f"{process.pid}\n")
        return process

    async def _ready(self, process: WatchedProcess) -> None:
        """Waits until this process has written where it answers."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                while (facts := _facts(self._options.ready_file)).get("pid") != process.pid:
                    if process.ended:
                        raise InferenceError(self._last_words(f"ended with exit code {process.exit_code}"))
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise InferenceError(self._last_words(f"did not answer within {READY_SECONDS:.0f} s")) from None
        self.pid, self.grpc, self.http = process.pid, facts["grpc"], facts["http"]

    async def _supervise(self) -> None:
        back_off = FIRST_BACK_OFF
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            began = loop.time()
            await self._process.wait()
            if loop.time() - began > STEADY_SECONDS:
                back_off = FIRST_BACK_OFF
            log.error("the inference plane ended (%s); starting it again in %g s", self._process.exit_code, back_off)
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, LONGEST_BACK_OFF)
            await self._restart()

    async def _restart(self) -> None:
        self._process = self._spawn()
        try:
            await self._ready(self._process)
        except InferenceError as error:
            log.error("%s", error)
            await self._process.stop(STOP_SECONDS)
            return
        self._changed()

    def _last_words(self, what: str) -> str:
        lines = self._options.log.read_text(errors="replace").splitlines()[-8:]
        return "\n".join([f"the inference plane {what}; the end of {self._options.log}:", *lines])


def _facts(ready_file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(ready_file.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}

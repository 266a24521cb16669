"""Runs attempts as plain subprocesses of this machine: for machines without Ray, and for fast tests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from batchyard.cluster import gpus
from batchyard.cluster.attempts import ENTRY, MARK, AttemptFolder
from batchyard.cluster.executor import Capacity
from batchyard.cluster.folder_executor import FolderExecutor
from batchyard.cluster.fork_client import ColdError, ForkServer, ask
from batchyard.cluster.processes import ProcessId, end_all, marked, reap, spawn, wait_until
from batchyard.cluster.verdict import infrastructure
from batchyard.cluster.worker_process import worker_environment
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended

ADOPT_S = 30.0
"""Time for a supervisor that was started to note itself: a fresh Python on a busy machine."""
EXIT_S = 5.0
"""Time for a supervisor to exit after its last event."""


class LocalExecutor(FolderExecutor):
    """One supervisor process an attempt, which survives this process.

    Args:
        folder: where attempts live; another LocalExecutor on the same folder goes on where this one ended.
        workers: most workers of one attempt, and what `capacity` tells.
        grace_s: seconds between a request to stop and force.
        entry: the training entry, module:function.
        fork_server: forks supervisors and workers; started at the first attempt, which waits for it, closed with the
            executor. None: each is a fresh process.
    """

    def __init__(
        self,
        folder: Path,
        workers: int,
        grace_s: float = 5.0,
        entry: str = ENTRY,
        fork_server: ForkServer | None = None,
    ) -> None:
        super().__init__(folder, workers, grace_s, entry)
        self._fork_server = fork_server

    def capacity(self) -> Capacity:
        """The workers it was given, and the GPUs that CUDA could see."""
        return Capacity(workers=self._workers, gpus=len(gpus.visible()))

    def _launch(self, folder: AttemptFolder) -> None:
        if self._refused(folder, self.capacity(), "this machine") or self._adopted(folder):
            return
        failpoint("supervisor.before_spawn")
        supervisor = self._fork_or_spawn(folder)
        failpoint("supervisor.before_note")
        folder.set_supervisor(supervisor)

    def _fork_or_spawn(self, folder: AttemptFolder) -> ProcessId:
        if self._fork_server is None:
            return self._spawn(folder)
        try:
            return self._fork(folder, self._fork_server)
        except ColdError as error:
            return self._spawn(folder, f"supervisor and workers start cold, which takes seconds: {error}")

    def _spawn(self, folder: AttemptFolder, said: str = "") -> ProcessId:
        """`said` is a line for the job's log."""
        arguments = [str(folder.path), str(self._folder / "gpus"), said]
        environment = {**os.environ, MARK: folder.orders().mark}
        return spawn("batchyard.cluster.local_supervisor", arguments, environment, folder.log)

    def _fork(self, folder: AttemptFolder, server: ForkServer) -> ProcessId:
        """Raises ColdError."""
        server.ensure()
        environment = worker_environment(folder.orders(), os.environ)
        paths = {"folder": str(folder.path), "gpus": str(self._folder / "gpus")}
        offer = ask(server.address, "supervisor", environment, **paths)
        offer.accept().close()
        return offer.process

    def _adopted(self, folder: AttemptFolder) -> bool:
        """Whether a control plane that died before it could note it has started a supervisor, which then notes itself.

        Two would write the same events, and train the same attempt.
        """
        mark = folder.orders().mark
        wait_until(lambda: folder.supervisor() is not None or not marked(MARK, mark), ADOPT_S)
        return folder.supervisor() is not None

    def _orphaned(self, folder: AttemptFolder) -> bool:
        supervisor = folder.supervisor()
        if supervisor is None:
            return True
        reap(supervisor)
        return not supervisor.alive()

    def _bury(self, folder: AttemptFolder) -> None:
        supervisor = folder.supervisor()
        who = "was not started" if supervisor is None else f"(process {supervisor.pid}) died"
        said = folder.log.read_text(errors="replace").strip()[-2000:] if folder.log.exists() else ""
        cause = f"the attempt's supervisor {who}" + (f"; it wrote:\n{said}" if said else "")
        folder.bury(infrastructure(cause, folder.orders().attempt.id.job))

    def _stop(self, folder: AttemptFolder) -> None:
        supervisor = folder.supervisor()
        if supervisor is not None:
            supervisor.send(signal.SIGTERM)

    def _pause(self, folder: AttemptFolder) -> None:
        self._stop(folder)  # the same signal: the supervisor looks into the folder what is asked of it

    def _await_exit(self, folder: AttemptFolder) -> None:
        supervisor = folder.supervisor()
        if supervisor is None:
            return
        if not supervisor.await_end(EXIT_S):
            supervisor.send(signal.SIGKILL)
            supervisor.await_end(EXIT_S)
        reap(supervisor)

    def close(self) -> None:
        """Cancels every attempt that has not ended and waits until its processes are gone."""
        with self._lock:
            left = self._attempts.unended()
            for folder in left:
                folder.cancelled.touch()
                self._stop(folder)
            deadline = time.monotonic() + self._grace_s + EXIT_S
            for folder in left:
                self._finish(folder, deadline)
            if self._fork_server is not None:
                self._fork_server.close()

    def _finish(self, folder: AttemptFolder, deadline: float) -> None:
        supervisor = folder.supervisor()
        if supervisor is not None:
            if not supervisor.await_end(max(0.0, deadline - time.monotonic())):
                mark = folder.orders().mark
                end_all(lambda: marked(MARK, mark))
            reap(supervisor)
        folder.bury(Ended(outcome="cancelled"))

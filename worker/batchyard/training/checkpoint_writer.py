"""Writes checkpoints beside the training."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from batchyard.failpoints import failpoint
from batchyard.training.checkpoint import CheckpointError, CheckpointFolder, Snapshot
from batchyard.training.context import WorkerContext
from batchyard.training.events import Checkpointed, LogLine


class Writer:
    """Rank 0's thread that writes checkpoints, one at a time. A context manager: at its end nothing is half written."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._thread: threading.Thread | None = None
        self._failed = False

    def begin(self, folder: CheckpointFolder, snapshot: Snapshot) -> None:
        """Writes `snapshot` while the caller goes on; first waits for the one before."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(folder, snapshot), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> bool:
        """Returns when nothing is being written: whether the last one is durable."""
        if self._thread is not None:
            self._thread.join()
        return not self._failed

    def _write(self, folder: CheckpointFolder, snapshot: Snapshot) -> None:
        context = self._context
        self._failed = True  # until it is known not to have
        try:
            failpoint("checkpoint.before_write")
            done = folder.write(snapshot, context.attempt)
            failpoint("checkpoint.after_write")
            self._failed = False
            context.emit(
                Checkpointed(
                    step=snapshot.step,
                    uri=done.uri,
                    sha256=done.sha256,
                    bytes=done.bytes,
                    tensors_sha256=done.tensors_sha256,
                )
            )
            failpoint("checkpoint.after_report")
            kept = context.spec.checkpoint
            folder.prune(kept.keep + context.spare_checkpoints, context.attempt, kept.keep_best)
        except CheckpointError as error:
            text = f"the checkpoint of step {snapshot.step} was not written, training goes on without: {error}"
            context.emit(LogLine(level="ERROR", text=text, rank=context.rank))
        except OSError as error:
            text = f"old checkpoints could not be removed from {context.checkpoint_uri}: {error}"
            context.emit(LogLine(level="WARNING", text=text, rank=context.rank))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()

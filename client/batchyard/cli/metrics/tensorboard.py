"""TensorBoard: an event file that grows while the job runs."""

from __future__ import annotations

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from batchyard.cli.failures import Failure
from batchyard.client import TrainingJob
from batchyard.client.history import Point


class TensorBoard:
    """Scalars under the names of the points, so that train, evaluation and layers are groups of charts."""

    def __init__(self, folder: Path, job: TrainingJob) -> None:
        if any(folder.glob("events.out.tfevents.*")):
            raise Failure(
                f"{folder} holds a run already; TensorBoard would draw both as one",
                "Name another folder with --output, or remove this one.",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(f"{folder}: {error.strerror}", "Name another folder with --output.") from None
        self._folder, self._points = folder, 0
        self._writer = EventFileWriter(str(folder))

    def write(self, point: Point) -> None:
        """Writes the point's numbers as scalars of its step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        self._writer.add_event(Record(wall_time=point.time.timestamp(), step=point.step, summary=Summary(value=values)))
        self._points += 1

    def rewind(self, step: int) -> None:
        """Tells TensorBoard to forget every later step: a session that starts at `step` + 1 makes it do so."""
        self._writer.add_event(Record(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def close(self, job: TrainingJob) -> str:
        """Flushes the file."""
        self._writer.close()
        return f"{self._folder}: {self._points} points; look at them with: tensorboard --logdir {self._folder.parent}"

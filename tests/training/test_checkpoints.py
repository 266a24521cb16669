"""Training that is interrupted and goes on, in this process and in several."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from batchyard.training import worker
from batchyard.training.checkpoint import CheckpointFolder, DamagedError, Name, Snapshot
from batchyard.training.context import PausedError, WorkerContext
from batchyard.training.events import Checkpointed, Evaluation, Event, LogLine, Resumed, StepMetrics

Job = Callable[..., dict[str, Any]]
Context = Callable[..., tuple[WorkerContext, list[Event]]]
InWorkers = Callable[..., list[Any]]

EVERY = 7
STEPS = 42


class PowerCutError(BaseException):
    """Nothing is cleaned up after it."""


class History:
    """What a reader of a job's events holds: points beyond the step of a Resumed event are dropped."""

    def __init__(self) -> None:
        self.points: list[StepMetrics | Evaluation] = []
        self.checkpoints: list[Checkpointed] = []

    def take(self, event: Event) -> None:
        if isinstance(event, Resumed):
            self.points = [point for point in self.points if point.step <= event.step]
            self.checkpoints = [one for one in self.checkpoints if one.step <= event.step]
        elif isinstance(event, StepMetrics | Evaluation):
            self.points.append(event)
        elif isinstance(event, Checkpointed):
            self.checkpoints.append(event)

    def measured(self) -> list[tuple[str, int, float, float]]:
        return [(point.kind, point.step, point.loss, point.accuracy) for point in self.points]

    def newest(self) -> str | None:
        return self.checkpoints[-1].uri if self.checkpoints else None


class Running:
    """A job's attempts, one after another, in this process."""

    def __init__(self, a_context: Context, spec: dict[str, Any], folder: Path, device: str = "cpu") -> None:
        self._a_context, self._spec, self._device = a_context, spec, device
        self.uri = f"file://{folder}/checkpoints"
        self.history = History()
        self.events: list[Event] = []
        self.attempt = 0

    def go_on(self, *, cut_at: int | None = None, pause_at: int | None = None) -> None:
        """Runs the next attempt, to its end or until its `cut_at`-th event or `pause_at`-th step."""
        self.attempt += 1
        count, steps = itertools.count(1), itertools.count(1)

        def emit(event: Event) -> None:
            if cut_at is not None and next(count) > cut_at:
                if threading.current_thread() is threading.main_thread():
                    raise PowerCutError
                return  # from the thread that writes checkpoints: the event is lost, the loop meets its end later
            self.events.append(event)
            self.history.take(event)

        context, _ = self._a_context(
            self._spec,
            attempt=self.attempt,
            emit=emit,
            checkpoint_uri=self.uri,
            resume_from=self.history.newest(),
            device=self._device,
            pause_requested=lambda: pause_at is not None and next(steps) >= pause_at,
        )
        worker.run(context)

    def final_state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the state after the last step."""
        folder = CheckpointFolder(self.uri)
        name = folder.names()[0]
        assert name.step == STEPS
        return dict(folder.read(name, "digits-mlp-1", 1).snapshot().tensors)


def lines(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, LogLine) and event.level != "INFO"]


@pytest.fixture(scope="module")
def job(a_job: Job) -> dict[str, Any]:
    """Metric points, evaluations and checkpoints fall together at no step but the last."""
    every = {"evaluate__every_steps": 9, "checkpoint__every_steps": EVERY, "metrics__every_steps": 5}
    return a_job(steps=STEPS, **every)


@pytest.fixture(scope="module")
def undisturbed(job: dict[str, Any], a_context: Context, tmp_path_factory: pytest.TempPathFactory) -> Running:
    running = Running(a_context, job, tmp_path_factory.mktemp("undisturbed"))
    running.go_on()
    return running


def test_checkpoints_come_at_every_so_many_steps_and_the_last_three_stay(undisturbed: Running) -> None:
    reported = [event for event in undisturbed.events if isinstance(event, Checkpointed)]
    assert [event.step for event in reported] == list(range(EVERY, STEPS + 1, EVERY))
    folder = CheckpointFolder(undisturbed.uri)
    assert [folder.uri(name) for name in folder.names()] == [event.uri for event in reported[:-4:-1]]


def test_everything_of_a_step_is_reported_before_its_checkpoint(undisturbed: Running) -> None:
    done = 0
    for event in undisturbed.events:
        done = max(done, event.step if isinstance(event, StepMetrics | Evaluation) else 0)
        if isinstance(event, Checkpointed):
            assert done >= event.step - event.step % 5


@pytest.mark.parametrize("seed", range(8))
def test_a_job_cut_off_at_random_events_ends_with_the_bits_of_one_never_cut_off(
    seed: int, undisturbed: Running, job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    running = Running(a_context, job, tmp_path)
    for _ in range(3):
        with pytest.raises(PowerCutError):
            running.go_on(cut_at=chance.randint(1, 20))
    running.go_on()
    expected, state = undisturbed.final_state(), running.final_state()
    assert state.keys() == expected.keys()
    assert [name for name, value in state.items() if not torch.equal(value, expected[name])] == []
    assert running.history.measured() == undisturbed.history.measured()


def test_a_paused_job_goes_on_from_the_step_at_which_it_was_paused(
    undisturbed: Running, job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    running = Running(a_context, job, tmp_path)
    with pytest.raises(PausedError, match="paused after step 17"):
        running.go_on(pause_at=17)
    running.go_on()
    assert [event.step for event in running.events if isinstance(event, Resumed)] == [17]
    assert running.history.measured() == undisturbed.history.measured()
    state = running.final_state()
    assert all(torch.equal(value, state[name]) for name, value in undisturbed.final_state().items())


@pytest.mark.parametrize("damage", ["tensors cut short", "tensors changed", "manifest changed", "manifest gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    damage: str, undisturbed: Running, job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    running = Running(a_context, job, tmp_path)
    with pytest.raises(PausedError):
        running.go_on(pause_at=30)
    broken = tmp_path / "checkpoints" / str(CheckpointFolder(running.uri).names()[0])
    tensors, manifest = broken / "tensors.safetensors", broken / "checkpoint.json"
    content = tensors.read_bytes()
    if damage == "tensors cut short":
        tensors.write_bytes(content[:-1])
    elif damage == "tensors changed":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "manifest changed":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "attempt": 3}))
    else:
        manifest.unlink()
    running.go_on()
    assert [event.step for event in running.events if isinstance(event, Resumed)] == [28]
    (warning,) = lines(running.events)
    assert broken.name in warning
    assert not broken.exists()
    assert running.history.measured() == undisturbed.history.measured()


def test_without_a_sound_checkpoint_the_job_begins_again_and_says_so(
    undisturbed: Running, job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    running = Running(a_context, job, tmp_path)
    with pytest.raises(PausedError):
        running.go_on(pause_at=EVERY + 1)
    for name in CheckpointFolder(running.uri).names():
        (tmp_path / "checkpoints" / str(name) / "tensors.safetensors").write_bytes(b"")
    running.go_on()
    assert [event.step for event in running.events if isinstance(event, Resumed)] == [0]
    assert len(lines(running.events)) == 2
    assert running.history.measured() == undisturbed.history.measured()


def test_what_a_cut_off_write_has_left_is_removed_by_the_next_attempt(
    job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    running = Running(a_context, job, tmp_path)
    with pytest.raises(PausedError):
        running.go_on(pause_at=20)
    torn = tmp_path / "checkpoints" / ".000000000021-1-abc.partial"
    torn.mkdir()
    running.go_on()
    assert not torn.exists()


def test_a_checkpoint_that_cannot_be_written_is_reported_and_training_goes_on(
    job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    running = Running(a_context, job, tmp_path)
    running.go_on()
    assert len(lines(running.events)) == STEPS // EVERY
    assert "step 7 was not written, training goes on without" in lines(running.events)[0]


def test_a_checkpoint_of_another_job_or_of_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(f"file://{tmp_path}")
    written = folder.write(Snapshot(job="one", step=5, world_size=2, tensors={"w": torch.ones(3)}), attempt=1)
    assert folder.read(written.name, "one", 2).snapshot().tensors["w"].tolist() == [1, 1, 1]
    with pytest.raises(DamagedError, match=r"job: 'one' found; expected 'other'"):
        folder.read(written.name, "other", 2)
    with pytest.raises(DamagedError, match="world_size: 2 found; expected 1"):
        folder.read(written.name, "one", 1)


def test_checkpoints_live_on_any_file_system_that_fsspec_knows(tmp_path: Path) -> None:
    folder = CheckpointFolder(f"memory://{tmp_path.name}")
    names = [folder.write(_snapshot(step), attempt=1).name for step in (1, 2, 3, 4)]
    assert folder.names() == names[::-1]
    folder.prune(keep=2, attempt=1)
    assert folder.names() == names[:1:-1]
    folder.sweep(step=3, attempt=2)
    assert folder.names() == [names[2]]
    assert folder.read(names[2], "job", 1).snapshot().scalars == {"decay": 0.1, "name": "sgd"}


def test_a_later_attempts_checkpoints_are_left_alone(tmp_path: Path) -> None:
    folder = CheckpointFolder(f"file://{tmp_path}")
    later = folder.write(_snapshot(1), attempt=2).name
    folder.write(_snapshot(2), attempt=1)
    folder.write(_snapshot(3), attempt=1)
    folder.prune(keep=1, attempt=1)
    assert [name.step for name in folder.names()] == [3, 1]
    assert later in folder.names()


def test_only_the_names_of_checkpoints_are_taken_for_checkpoints() -> None:
    name = Name(step=1000, attempt=2, digest="0" * 32)
    assert Name.parse(str(name)) == name
    assert Name.parse(f".{name}.1234") is None


def _snapshot(step: int) -> Snapshot:
    scalars: dict[str, int | float | str] = {"decay": 0.1, "name": "sgd"}
    return Snapshot(job="job", step=step, world_size=1, tensors={"w": torch.full((2,), step)}, scalars=scalars)


@pytest.mark.parametrize("synced", ["world", "none"])
def test_two_workers_that_are_cut_off_at_random_steps_end_with_the_bits_of_two_never_cut_off(
    synced: str, in_workers: InWorkers, job: dict[str, Any]
) -> None:
    spec = {**job, "workers": {"count": 2, "sync_batch_norm": synced}}
    expected = in_workers("interrupted", 2, spec=spec, cuts=[])[0]
    for seed in range(4):
        chance = random.Random(seed)
        cuts = [chance.randint(1, STEPS // 3 - 1) for _ in range(3)]  # each before the job's end
        assert in_workers("interrupted", 2, spec=spec, cuts=cuts)[0] == expected, cuts


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_deterministic_job_that_is_cut_off_on_a_gpu_ends_with_the_bits_of_one_never_cut_off(
    job: dict[str, Any], a_context: Context, tmp_path: Path
) -> None:
    spec = {**job, "deterministic": True, "workers": {"gpus_per_worker": 1}}
    never, cut_off = (Running(a_context, spec, tmp_path / name, "cuda") for name in ("never", "cut-off"))
    never.go_on()
    for cut_at in (5, 12):
        with pytest.raises(PowerCutError):
            cut_off.go_on(cut_at=cut_at)
    cut_off.go_on()
    state = cut_off.final_state()
    assert all(torch.equal(value, state[name]) for name, value in never.final_state().items())
    assert cut_off.history.measured() == never.history.measured()

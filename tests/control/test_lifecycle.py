"""The job's state machine: pure functions, driven every way there is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchyard.control import lifecycle
from batchyard.control.lifecycle import Step
from batchyard.control.records import Failure, Job, StateChange
from batchyard.control.states import ACTIVE, LEGAL, TERMINAL, IllegalTransitionError, State, check_transition
from batchyard.endpoint.errors import PreconditionError
from batchyard.training.events import Checkpointed, Ended, Event, LogLine, PhaseChange, Resumed
from tests.control.harness import a_step

FAILURE = Failure(failure_class="infrastructure", cause="c", next_step="n")


def a_job(state: State = State.QUEUED, **changes: Any) -> Job:
    values: dict[str, Any] = {"number": 1, "id": "tiny-1", "spec": {"steps": 100}, "create_time": 1.0}
    return Job(state=state, **(values | changes))


class AnyLife(RuleBasedStateMachine):
    """Whatever happens to a job, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.log: list[Event] = []
        self.job = a_job(spec={"steps": 100, "retries": 3})
        self._take(lifecycle.accept(self.job))

    def _take(self, step: Step) -> None:
        self.now += 1.0
        assert not self.job.ended or step.job == self.job, "a final state has changed"
        self.job = step.job
        self.log += step.events

    @precondition(lambda self: self.job.state == State.QUEUED)
    @rule()
    def begin(self) -> None:
        self._take(lifecycle.begin(self.job, self.now))

    @rule()
    def cancel(self) -> None:
        if self.job.state in (State.SUCCEEDED, State.FAILED):
            with pytest.raises(PreconditionError):
                lifecycle.cancel(self.job, self.now)
        else:
            self._take(lifecycle.cancel(self.job, self.now))

    @rule()
    def pause(self) -> None:
        if self.job.state == State.CANCELLING or self.job.ended:
            with pytest.raises(PreconditionError):
                lifecycle.pause(self.job, self.now)
        else:
            self._take(lifecycle.pause(self.job, self.now))

    @rule()
    def resume(self) -> None:
        if self.job.state in (State.PAUSING, State.CANCELLING) or self.job.ended:
            with pytest.raises(PreconditionError):
                lifecycle.resume(self.job, self.now)
        else:
            self._take(lifecycle.resume(self.job, self.now))

    @precondition(lambda self: self.job.state in ACTIVE)
    @rule(step=st.integers(0, 100))
    def checkpoint(self, step: int) -> None:
        done = Checkpointed(step=step, uri="file:///c", sha256="0" * 64, bytes=1)
        self._take(lifecycle.report(self.job, [Resumed(step=step), done], self.now))

    @precondition(lambda self: self.job.state in ACTIVE)
    @rule(steps=st.lists(st.floats(), max_size=3))
    def report(self, steps: list[float]) -> None:
        events = [PhaseChange(phase="training"), *(a_step(n, loss=loss) for n, loss in enumerate(steps, 1))]
        self._take(lifecycle.report(self.job, events, self.now))

    @precondition(lambda self: self.job.state in ACTIVE)
    @rule(
        outcome=st.sampled_from(["succeeded", "failed", "cancelled", "paused"]),
        who=st.sampled_from(["user", None]),
        failures=st.integers(0, 4),
    )
    def end(self, outcome: str, who: str | None, failures: int) -> None:
        self._take(lifecycle.end(self.job, Ended(outcome=outcome, failure_class=who), self.now, failures=failures))

    @precondition(lambda self: self.job.state in ACTIVE)
    @rule(failures=st.integers(0, 4))
    def fail(self, failures: int) -> None:
        self._take(lifecycle.fail(self.job, FAILURE, self.now, failures))

    @invariant()
    def the_log_is_a_legal_path_to_the_present_state(self) -> None:
        states = [event.state for event in self.log if isinstance(event, StateChange)]
        assert states[0] == State.QUEUED
        assert states[-1] == self.job.state
        for old, new in itertools.pairwise(states):
            assert new in LEGAL[old]

    @invariant()
    def nothing_follows_a_final_state(self) -> None:
        assert not any(isinstance(event, StateChange) and event.state in TERMINAL for event in self.log[:-1])

    @invariant()
    def what_a_state_promises_is_there(self) -> None:
        assert (self.job.failure is not None) == (self.job.state == State.FAILED)
        assert (self.job.end_time is not None) == (self.job.state in TERMINAL)
        assert (self.job.attempt > 0) == (self.job.start_time is not None)


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


def test_only_the_transitions_of_the_table_are_legal() -> None:
    for old, new in itertools.product(State, State):
        if new in LEGAL[old]:
            check_transition("tiny-1", old, new)
        else:
            with pytest.raises(IllegalTransitionError, match=f"tiny-1: {old} -> {new}"):
                check_transition("tiny-1", old, new)


def test_every_state_is_in_the_table_and_the_final_ones_lead_nowhere() -> None:
    assert set(LEGAL) == set(State)
    assert {state for state in State if not LEGAL[state]} == TERMINAL


def test_a_log_line_alone_does_not_mean_that_a_job_runs() -> None:
    job = a_job(State.STARTING, attempt=1)
    assert lifecycle.report(job, [LogLine(level="INFO", text="x")], 2.0).job.state == State.STARTING
    assert lifecycle.report(job, [PhaseChange(phase="loading")], 2.0).job.state == State.RUNNING


def test_a_time_that_is_none_becomes_the_time_of_storing() -> None:
    step = lifecycle.report(a_job(State.RUNNING), [a_step(1, time=float("nan"))], 7.0)
    assert step.events[0].time == 7.0
    assert step.job.first_step_time is None


def test_as_many_failures_of_the_infrastructure_as_the_spec_says_are_made_up_for() -> None:
    job = a_job(State.RUNNING, attempt=3, spec={"steps": 100, "retries": 2})
    job = lifecycle.report(job, [Checkpointed(step=40, uri="file:///c", sha256="0" * 64, bytes=1)], 2.0).job
    again = lifecycle.fail(job, FAILURE, 2.0, failures=1)
    assert (again.job.state, again.job.failure) == (State.QUEUED, None)
    (line, _) = again.events
    assert isinstance(line, LogLine)
    assert line.text == "attempt 3 failed (infrastructure); it goes on from the checkpoint of step 40, retry 2 of 2: c"
    assert lifecycle.fail(job, FAILURE, 2.0, failures=2).job.state == State.FAILED


def test_a_users_error_is_never_tried_again() -> None:
    job = a_job(State.RUNNING, attempt=1, spec={"steps": 100, "retries": 2})
    assert lifecycle.end(job, Ended(outcome="failed", failure_class="user"), 2.0).job.state == State.FAILED


def test_an_attempt_that_was_stopped_costs_no_retry_and_its_job_goes_on() -> None:
    for outcome in ("paused", "cancelled"):
        assert lifecycle.end(a_job(State.RUNNING, attempt=1), Ended(outcome=outcome), 2.0).job.state == State.QUEUED


def test_a_pausing_job_that_loses_its_machine_is_paused() -> None:
    step = lifecycle.fail(a_job(State.PAUSING, attempt=1), FAILURE, 2.0)
    assert step.job.state == State.PAUSED
    assert isinstance(step.events[0], LogLine)


def test_a_lost_machine_is_what_a_cancelling_user_wanted_but_a_users_mistake_is_still_told() -> None:
    job = a_job(State.CANCELLING, attempt=1)
    assert lifecycle.fail(job, FAILURE, 2.0).job.state == State.CANCELLED
    mistake = Ended(outcome="failed", failure_class="user", cause="c", next_step="n")
    assert lifecycle.end(job, mistake, 2.0).job.state == State.FAILED

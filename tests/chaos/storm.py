"""Carries out a plan on a real service, and records all of it."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from batchyard.client.job_file import read_job
from batchyard.cluster.processes import ProcessId
from batchyard.v1 import models_pb2, training_pb2
from batchyard.v1.training_pb2 import TrainingJob
from batchyard.v1.training_pb2_grpc import TrainingServiceStub
from tests.chaos.plan import SPECS, Action, Plan
from tests.chaos.record import Record
from tests.chaos.service import Service, until

FULL_S = 0.7
"""For so long a process finds its disk full."""
CALM_S = 90.0
"""From the last fault until every job has to be over."""
WAIT_S = {"started": 8.0, "step": 8.0, "checkpoint": 8.0, "ended": 60.0}
"""For the progress that an action waits for; then it is done all the same."""
SLOWER = {"local": 1.0, "ray": 6.0}
"""How many times as long, by executor: a Ray head alone takes 5 s to start."""
TERMINAL = {TrainingJob.SUCCEEDED, TrainingJob.FAILED, TrainingJob.CANCELLED}
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
           grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}  # fmt: skip
"""The call may or may not have been carried out: a client tries again."""


@dataclass
class Seen:
    """What the watcher of a job has seen of it so far."""

    name: str
    attempt: int = 0
    step: int = 0
    checkpoints: int = 0
    ended: bool = False
    paused: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def has(self, progress: str) -> bool:
        """Whether the job has come so far; a job that has ended, or is paused, comes no further."""
        reached = {"now": True, "started": self.attempt > 0, "step": self.step > 0, "checkpoint": self.checkpoints > 0}
        return self.ended or self.paused or reached.get(progress, False)


class Storm:
    """One history."""

    def __init__(self, plan: Plan, service: Service, record: Record) -> None:
        self._plan = plan
        self._service = service
        self._record = record
        self._dice = random.Random(f"requests {plan.seed}")
        self._requests = [str(uuid.UUID(int=self._dice.getrandbits(128), version=4)) for _ in plan.jobs]
        self._jobs: dict[int, Seen] = {}
        self._calm = threading.Event()
        """Set when the service is to stay down."""
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Does what is planned, then has every job come to its end. Raises TimeoutError where one does not."""
        self._service.start()
        self._begin(self._keep_up)
        try:
            for action in self._plan.actions:
                self._await(action)
                self._record.add("action", **vars(action))
                getattr(self, f"_{action.do}")(action)
            self._settle()
        finally:
            self._calm.set()
            for thread in self._threads:
                thread.join(60.0)

    def _begin(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    # The control plane is started again whenever it is gone, as a service manager does it.

    def _keep_up(self) -> None:
        lost: float | None = time.monotonic()
        first = True
        while not self._calm.wait(0.01):
            if lost is not None and self._service.answers():
                self._record.add("back", seconds=time.monotonic() - lost, first=first)
                lost, first = None, False
            if not self._service.running:
                lost = lost or time.monotonic()
                self._record.add("control_lost")
                if not self._service.promote():
                    self._service.start()

    # What users do.

    def _submit(self, action: Action) -> None:
        spec = read_job(SPECS[action.what])
        request = training_pb2.CreateTrainingJobRequest(spec=spec, request_id=self._requests[action.job])
        user = self._plan.users[action.job]
        for _ in range(action.times):
            job: Any = self._persist("CreateTrainingJob", request, user, request_id=request.request_id)
        seen = self._jobs[action.job] = Seen(job.name)
        self._begin(self._watch, seen)

    def _submit_other(self, action: Action) -> None:
        """The same request_id for another spec, which must be refused."""
        spec = read_job({**SPECS[self._plan.jobs[action.job]], "seed": 99})
        request = training_pb2.CreateTrainingJobRequest(spec=spec, request_id=self._requests[action.job])
        with contextlib.suppress(grpc.RpcError):
            user = self._plan.users[action.job]
            self._persist("CreateTrainingJob", request, user, request_id=request.request_id, other=True)

    def _cancel(self, action: Action) -> None:
        self._ask("CancelTrainingJob", training_pb2.CancelTrainingJobRequest, action)

    def _pause(self, action: Action) -> None:
        self._ask("PauseTrainingJob", training_pb2.PauseTrainingJobRequest, action)

    def _ask(self, method: str, request: Any, action: Action) -> None:
        name = self._jobs[action.job].name
        with contextlib.suppress(grpc.RpcError):  # FAILED_PRECONDITION: it has ended meanwhile
            self._persist(method, request(name=name), job=name)

    def _list(self, _action: Action) -> None:
        listed: Any = self._persist("ListTrainingJobs", training_pb2.ListTrainingJobsRequest(page_size=1000))
        self._record.add("listed", jobs={job.name: TrainingJob.State.Name(job.state) for job in listed.training_jobs})

    def _alias(self, _action: Action) -> None:
        with contextlib.suppress(grpc.RpcError):  # NOT_FOUND: nothing is published yet
            self._persist("SetAlias", models_pb2.SetAliasRequest(model="models/digits", alias="canary", version=1))

    def _persist(self, method: str, request: Any, user: str = "", **about: Any) -> object:
        """Calls until there is an answer. Raises grpc.RpcError for one that says no."""
        deadline = time.monotonic() + CALM_S
        while True:
            try:
                answer: Any = self._service.call(method, request, user=user)
            except grpc.RpcError as error:
                code = error.code()
                self._record.add("refused", method=method, code=code.name, **about)
                if code not in PASSING or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
                continue
            if isinstance(answer, TrainingJob):
                about |= {"name": answer.name, "state": TrainingJob.State.Name(answer.state)}
            self._record.add("answered", method=method, **about)
            return answer

    # What goes wrong.

    def _arm(self, action: Action) -> None:
        self._service.arm(action.what)

    def _restart(self, _action: Action) -> None:
        process = self._service.process
        if process is not None:
            process.send(signal.SIGTERM)
            process.await_end(60.0)

    def _standby(self, _action: Action) -> None:
        """A second control plane, which waits for the end of the first."""
        self._service.stand_by()

    def _clock(self, action: Action) -> None:
        """The control plane's clock is set to another time."""
        self._service.move_clock(float(action.what))

    def _kill(self, action: Action) -> None:
        """SIGKILL."""
        for victim, attempts in self._victims(action):
            if victim.send(signal.SIGKILL):
                self._record.add("killed", what=action.what, attempts=attempts)

    def _hang(self, action: Action) -> None:
        """SIGSTOP to a worker: it lives, and does nothing."""
        for victim, attempts in self._victims(Action(do="hang", job=action.job, what="worker")):
            if victim.send(signal.SIGSTOP):
                self._record.add("hung", what="hung worker", attempts=attempts)

    def _full(self, action: Action) -> None:
        """For a while no file of the process can grow."""
        for victim, _ in self._victims(action):
            with contextlib.suppress(ProcessLookupError):
                before = resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
                self._record.add("disk_full", what=action.what)
                self._calm.wait(FULL_S)
                resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, before)

    def _victims(self, action: Action) -> list[tuple[ProcessId, list[str]]]:
        """The processes that are meant, and the attempts that are lost with each."""
        service = self._service
        match action.what:
            case "control":
                return [(service.process, [])] if service.process is not None else []
            case "forks":
                return [(each, []) for each in service.fork_servers()]
            case "head" | "raylet" | "gcs_server":
                return [(each, sorted(service.attempts())) for each in service.head(action.what)]
        found: list[tuple[ProcessId, list[str]]] = []
        for attempt, mark in service.attempts().items():
            if attempt.startswith(self._jobs[action.job].name.rpartition("/")[2]):
                alone = service.supervisor(attempt) if action.what == "supervisor" else None
                found += [(each, [attempt]) for each in ([alone] if alone else service.crew(mark)[1][:1])]
        return found

    # What is waited for.

    def _await(self, action: Action) -> None:
        job = 0 if action.do == "submit" else action.job
        if action.after == "now" or job not in self._jobs:
            return
        with contextlib.suppress(TimeoutError):
            within_s = WAIT_S[action.after] * SLOWER[self._service.executor]
            until(lambda: self._jobs[job].has(action.after), within_s, action.after)
        self._look()

    def _look(self) -> None:
        """Notes which processes work on which attempt."""
        crews = {attempt: self._service.crew(mark) for attempt, mark in self._service.attempts().items()}
        running = {name: {"supervisors": len(one), "workers": len(more)} for name, (one, more) in crews.items()}
        self._record.add("processes", running=running)

    def _settle(self) -> None:
        """Resumes what is paused, until every job has ended and the service is calm."""
        self._record.add("settling")
        deadline = time.monotonic() + CALM_S
        while left := [seen.name for seen in self._jobs.values() if not seen.over.is_set()]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not over {CALM_S:g} s after the last fault: {left}")
            for name in left:
                job: Any = self._persist("GetTrainingJob", training_pb2.GetTrainingJobRequest(name=name), job=name)
                if job.state == TrainingJob.PAUSED:
                    with contextlib.suppress(grpc.RpcError):
                        self._persist("ResumeTrainingJob", training_pb2.ResumeTrainingJobRequest(name=name), job=name)
            self._look()
            time.sleep(0.1)
        until(self._service.answers, CALM_S, "the control plane answers")

    def _watch(self, seen: Seen) -> None:
        """Follows a job to its end, over every loss of the connection."""
        cursor = ""
        while not seen.ended and not self._calm.is_set():
            with self._service.channel() as channel, contextlib.suppress(grpc.RpcError):
                request = training_pb2.WatchTrainingJobRequest(name=seen.name, cursor=cursor)
                for answer in TrainingServiceStub(channel).WatchTrainingJob(request, timeout=CALM_S):
                    cursor = answer.cursor
                    self._take(seen, answer)
            self._calm.wait(0.02)
        seen.over.set()

    def _take(self, seen: Seen, answer: training_pb2.WatchTrainingJobResponse) -> None:
        event, kind = answer.event, answer.event.WhichOneof("kind") or ""
        step = getattr(getattr(event, kind, None), "step", None)
        self._record.add("event", job=seen.name, cursor=answer.cursor, what=kind, attempt=event.attempt, step=step)
        if kind == "state_change":
            seen.attempt = event.attempt
            seen.ended = event.state_change.state in TERMINAL
            seen.paused = event.state_change.state == TrainingJob.PAUSED
        elif kind == "step_metrics":
            seen.step = event.step_metrics.step
        elif kind == "checkpointed":
            seen.checkpoints += 1


def carry_out(plan: Plan, service: Service, record: Record) -> str | None:
    """Runs a history; what was not over in time, or None. The service still runs after it."""
    try:
        Storm(plan, service, record).run()
    except (TimeoutError, grpc.RpcError) as error:
        return str(error)
    return None


def folder_of(root: Path, seed: int) -> Path:
    """Where a history's files lie."""
    return root / f"seed-{seed}"

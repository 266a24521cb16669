"""The control plane's Prometheus metrics, fed by the events and state changes of jobs. docs/metrics.md lists them.

The rule for series of one job (label `job`): they begin with its first report and are gone as soon as its state is
terminal; those that tell a speed are gone whenever the job is not RUNNING. An event of a job that has ended, or that
nobody announced, changes no series.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from batchyard.control.states import TERMINAL, State
from batchyard.training import events

WAITING_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 300, 1800, 7200)
"""Bucket bounds: 1 s and 8 s are the bars for a warm and a cold start; the rest is what a queue can cost."""


@dataclass(frozen=True)
class _JobGauge:
    """A series of each live job, set by the field `attribute` of the event `source`."""

    name: str
    help: str
    source: type[events.Event]
    attribute: str
    speed: bool = False
    """Whether it tells how fast the job runs, and so means nothing while the job does not run."""


@dataclass(frozen=True)
class _LayerGauge:
    """A series of each layer of each live job."""

    name: str
    help: str
    values: Callable[[events.Layer], Iterable[tuple[tuple[str, ...], float | None]]]
    """From a layer to (further label values, value); None: the layer has no such value."""
    labels: tuple[str, ...] = ()


JOB_GAUGES = (
    _JobGauge("batchyard_job_step", "Optimiser steps that the job has done.", events.StepMetrics, "step"),
    _JobGauge("batchyard_job_steps", "Optimiser steps that the job will do in all.", events.StepMetrics, "steps"),
    _JobGauge("batchyard_job_loss", "Training loss since the report before.", events.StepMetrics, "loss"),
    _JobGauge(
        "batchyard_job_accuracy",
        "Share of training samples classified right since the report before, 0 to 1.",
        events.StepMetrics,
        "accuracy",
    ),
    _JobGauge("batchyard_job_learning_rate", "Learning rate in use.", events.StepMetrics, "learning_rate"),
    _JobGauge(
        "batchyard_job_samples_per_second",
        "Training samples per second over all workers, since the report before.",
        events.StepMetrics,
        "samples_per_second",
        speed=True,
    ),
    _JobGauge(
        "batchyard_job_step_seconds",
        "Mean wall time of one optimiser step since the report before.",
        events.StepMetrics,
        "step_seconds",
        speed=True,
    ),
    _JobGauge("batchyard_job_evaluation_loss", "Loss on held-out data, last measured.", events.Evaluation, "loss"),
    _JobGauge(
        "batchyard_job_evaluation_accuracy",
        "Share of held-out samples classified right, last measured, 0 to 1.",
        events.Evaluation,
        "accuracy",
    ),
)

STEP_PARTS = ("data", "forward", "backward", "collectives", "optimizer")
"""Where the time of a step goes, as in events.StepMetrics."""

LAYER_GAUGES = (
    _LayerGauge(
        "batchyard_job_layer_activation",
        "Percentile of the activation function's input in this layer (the paper's Figure 1b, c).",
        lambda layer: ((("p15",), layer.p15), (("p50",), layer.p50), (("p85",), layer.p85)),
        labels=("percentile",),
    ),
    _LayerGauge(
        "batchyard_job_layer_saturated_ratio",
        "Share of inputs where the layer's activation function is flat, 0 to 1.",
        lambda layer: (((), layer.saturated),),
    ),
    _LayerGauge(
        "batchyard_job_layer_dead_ratio",
        "Share of the layer's units that were never active in the batches measured, 0 to 1.",
        lambda layer: (((), layer.dead),),
    ),
    _LayerGauge(
        "batchyard_job_layer_drift",
        "Batch against running mean: squared difference in running variances, mean over channels.",
        lambda layer: (((), layer.drift),),
    ),
    _LayerGauge(
        "batchyard_job_layer_worker_spread",
        "Largest difference between the workers' means, in standard deviations.",
        lambda layer: (((), layer.worker_spread),),
    ),
)


@dataclass
class _LiveJob:
    """What is known of a job that has not ended."""

    values: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    """Of a step, in seconds."""
    layers: tuple[events.Layer, ...] = ()
    queued_at: float | None = None
    """When it was submitted, on the monotonic clock; None: before this process, or its wait is over."""
    first_step_due: float | None = None
    """The same, until the first report of a step."""


class _LiveJobs(Collector):
    """The series of live jobs: made when scraped, so that a job's series begin and end as one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _LiveJob] = {}

    def begin(self, job: str) -> _LiveJob:
        with self._lock:
            return self._jobs.setdefault(job, _LiveJob())

    def find(self, job: str) -> _LiveJob | None:
        return self._jobs.get(job)

    def end(self, job: str) -> None:
        with self._lock:
            self._jobs.pop(job, None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            jobs = [(job, dict(live.values), dict(live.parts), live.layers) for job, live in self._jobs.items()]
        for gauge in JOB_GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=("job",))
            for job, values, _, _ in jobs:
                if gauge.name in values:
                    family.add_metric((job,), values[gauge.name])
            yield family
        yield _step_parts((job, parts) for job, _, parts, _ in jobs)
        for kind in LAYER_GAUGES:
            family = GaugeMetricFamily(kind.name, kind.help, labels=("job", "layer", *kind.labels))
            for job, _, _, layers in jobs:
                for layer in layers:
                    for further, value in kind.values(layer):
                        if value is not None:
                            family.add_metric((job, layer.name, *further), value)
            yield family


ENDINGS = (
    ("succeeded", ""), ("cancelled", ""), ("paused", ""), ("failed", "user"), ("failed", "infrastructure"),
)  # fmt: skip
"""Outcome and failure class of attempts: see events.Ended."""


class Metrics:
    """Everything the control plane tells Prometheus, in a registry of its own."""

    def __init__(
        self, registry: CollectorRegistry, *, version: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Registers every metric. `clock` gives seconds and never goes back."""
        self.registry = registry
        self._clock = clock
        self._live = _LiveJobs()
        registry.register(self._live)
        self._jobs = Gauge("batchyard_jobs", "Stored jobs by state.", ["state"], registry=registry)
        for state in State:
            self._jobs.labels(state)
        self._submitted = Counter("batchyard_jobs_submitted_total", "Jobs accepted.", registry=registry)
        self._finished = Counter(
            "batchyard_jobs_finished_total",
            "Jobs that ended while this process ran, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for state in sorted(TERMINAL):
            self._finished.labels(state.lower())
        self._attempts = Counter(
            "batchyard_job_attempts_total",
            "Attempts that ended, by outcome and, where they failed, by who can mend it.",
            ["outcome", "failure_class"],
            registry=registry,
        )
        for outcome, failure_class in ENDINGS:  # what first appears as 1 has not increased, for Prometheus
            self._attempts.labels(outcome, failure_class)
        self._queue_seconds = Histogram(
            "batchyard_job_queue_seconds",
            "Time from a job's acceptance until it left QUEUED.",
            registry=registry,
            buckets=WAITING_SECONDS,
        )
        self._first_step_seconds = Histogram(
            "batchyard_job_first_step_seconds",
            "Time from a job's acceptance until its first steps were reported.",
            registry=registry,
            buckets=WAITING_SECONDS,
        )
        Info("batchyard_build", "The running version.", registry=registry).info({"version": version})
        ProcessCollector(registry=registry)

    def job_found(self, job_id: str, state: State) -> None:
        """Takes note of a job that was stored before this process began."""
        self._jobs.labels(state).inc()
        if state not in TERMINAL:
            self._live.begin(job_id)

    def job_state(self, job_id: str, old_state: State | None, new_state: State) -> None:
        """Takes note that a job is in `new_state` and was in `old_state`; None: it is new."""
        if old_state == new_state:
            return
        if old_state is not None:
            self._jobs.labels(old_state).dec()
        self._jobs.labels(new_state).inc()
        if new_state in TERMINAL:
            self._live.end(job_id)
            self._finished.labels(new_state.lower()).inc()
            return
        live = self._live.begin(job_id)
        if old_state is None:
            self._submitted.inc()
            live.queued_at = live.first_step_due = self._clock()
        elif live.queued_at is not None:
            self._queue_seconds.observe(self._clock() - live.queued_at)
            live.queued_at = None
        if new_state != State.RUNNING:
            _forget_speed(live)

    def job_event(self, job_id: str, event: events.Event) -> None:
        """Takes an event of a job into account."""
        if isinstance(event, events.Ended):
            self._attempts.labels(event.outcome, event.failure_class or "").inc()
        live = self._live.find(job_id)
        if live is None:
            return
        for gauge in JOB_GAUGES:
            if isinstance(event, gauge.source):
                live.values[gauge.name] = getattr(event, gauge.attribute)
        if isinstance(event, events.StepMetrics) and event.forward_seconds is not None:
            live.parts = {part: getattr(event, f"{part}_seconds") for part in STEP_PARTS}
        if isinstance(event, events.LayerStatistics):
            live.layers = event.layers
        if isinstance(event, events.StepMetrics) and live.first_step_due is not None:
            self._first_step_seconds.observe(self._clock() - live.first_step_due)
            live.first_step_due = None
        if isinstance(event, events.PhaseChange) and event.phase != "training":
            _forget_speed(live)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)


def _step_parts(jobs: Iterable[tuple[str, dict[str, float]]]) -> GaugeMetricFamily:
    said = "Time of one optimiser step that goes into a part of it: rank 0's mean over the steps last measured."
    family = GaugeMetricFamily("batchyard_job_step_part_seconds", said, labels=("job", "part"))
    for job, parts in jobs:
        for part, seconds in parts.items():
            family.add_metric((job, part), seconds)
    return family


def _forget_speed(live: _LiveJob) -> None:
    live.parts.clear()
    for gauge in JOB_GAUGES:
        if gauge.speed:
            live.values.pop(gauge.name, None)

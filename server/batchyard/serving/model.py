"""One version of a model while it serves: its tensors, its batcher, its engine and its statistics."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from concurrent.futures import Executor

from batchyard.artifact.manifest import Manifest, Signature
from batchyard.serving.answers import Ticket
from batchyard.serving.batcher import Batcher, BatchPlan
from batchyard.serving.batching import BatchPolicy, ModelSettings, make_policy
from batchyard.serving.engines.switch import SwitchedEngine
from batchyard.serving.loading import Loaded, Wanted
from batchyard.serving.metrics import VersionMetrics
from batchyard.serving.replies import PlainReplies
from batchyard.serving.request_queue import Answer
from batchyard.serving.settings import Limits
from batchyard.serving.shadow import Shadow
from batchyard.serving.shift_monitor import ShiftMonitor
from batchyard.serving.tensors import InputSpec, Pixels

INLINE_BELOW_SECONDS = 0.0005
"""A full batch faster than this runs on the event loop; to hand it to a thread and back costs about 0.1 ms."""

FP32_BYTES = 4

PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "onnxruntime-cuda": "onnxruntime_onnx",
    "tensorrt": "onnxruntime_onnx",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
    "torch": "pytorch_libtorch",
    "torch-cuda": "pytorch_libtorch",
    "torch-cuda-bf16": "pytorch_libtorch",
}
"""Engine -> the name that clients written for Triton know."""


class ServedVersion:
    """A loaded version behind its batcher. Belongs to the event loop that makes it."""

    def __init__(
        self,
        wanted: Wanted,
        loaded: Loaded,
        limits: Limits,
        executor: Executor,
        metrics: VersionMetrics,
    ) -> None:
        self.wanted = wanted
        self.manifest: Manifest = loaded.manifest
        self.timings = loaded.timings
        """Which engines were tried on this machine, what they took, which serve, and why the others do not."""
        self.precision = loaded.precision
        """What its engines may compute in."""
        self.metrics = metrics
        self.plain_replies = PlainReplies(self.name, self.version, self.output.name)
        self._engine = SwitchedEngine(loaded.engine)
        self._limits = limits
        self._seconds_per_row = loaded.seconds_per_batch / limits.max_batch
        self._features = math.prod(self.input.shape[1:])
        self.settings = ModelSettings()
        """What the control plane asks for; `policy` is what is done."""
        policy = self._policy()
        self.input_spec = self._input_spec(policy)
        self.batcher = Batcher(self._engine.run, self._plan(policy), policy, executor, metrics)
        metrics.queued_rows = lambda: self.batcher.queued_rows
        metrics.queued_requests = lambda: self.batcher.queued_requests
        self.shift: ShiftMonitor | None = None
        self.shadow: Shadow | None = None
        self._ran_before_shadow = 0, 0.0

    def watch(self, shift: ShiftMonitor | None) -> None:
        """Offers every request to this monitor from now on; None: to nobody."""
        self.shift = shift
        if shift is not None:
            self.metrics.shift = shift.report

    def set_shadow(self, shadow: Shadow | None) -> None:
        """Copies some requests to this shadow from now on, and closes the one before; None: to nobody."""
        if self.shadow is not None:
            self.shadow.close()
        self.shadow = shadow
        self.metrics.shadow = None if shadow is None else shadow.report
        self._ran_before_shadow = self.metrics.engine_rows_and_seconds()

    def seconds_per_row_beside_shadow(self) -> float | None:
        """Of the engine, over every batch since the shadow stands beside it; None: there was none."""
        rows_before, seconds_before = self._ran_before_shadow
        rows, seconds = self.metrics.engine_rows_and_seconds()
        return (seconds - seconds_before) / (rows - rows_before) if rows > rows_before else None

    @property
    def policy(self) -> BatchPolicy:
        """How requests are queued and batched now."""
        return self.batcher.policy

    def change(self, settings: ModelSettings) -> None:
        """Queues and batches as asked from now on; the engine stays as it is, until `take_over` brings another."""
        if settings == self.settings:
            return
        self.settings = settings
        policy = self._policy()
        self.input_spec = self._input_spec(policy)
        self.batcher.change(policy, self._plan(policy))

    async def take_over(self, loaded: Loaded) -> None:
        """Answers with this engine from the next batch on, and closes the one before if it is another."""
        await asyncio.to_thread(self._engine.switch, loaded.engine)
        self.timings, self.precision = loaded.timings, loaded.precision
        self._seconds_per_row = loaded.seconds_per_batch / self._limits.max_batch
        self.batcher.change(self.policy, self._plan(self.policy))

    def stop_measuring(self) -> None:
        """The engine stays as it is."""
        self.timings = dataclasses.replace(self.timings, measuring=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.wanted.model

    @property
    def version(self) -> str:
        """The version's number as the protocol writes it."""
        return str(self.wanted.version)

    @property
    def platform(self) -> str:
        """The engine, as the protocol's metadata names platforms."""
        return PLATFORMS.get(self._engine.name, self._engine.name)

    @property
    def input(self) -> Signature:
        """The one input tensor."""
        return self.manifest.inputs[0]

    @property
    def output(self) -> Signature:
        """The one output tensor."""
        return self.manifest.outputs[0]

    def post(
        self, rows: Pixels, answer: Answer, deadline: float | None = None, level: int = 0, late_at: float | None = None
    ) -> Ticket:
        """[n, features] -> [n, outputs], which `answer` gets. Takes and raises what Batcher.post does."""
        if self.shift is not None:
            self.shift.offer(rows)
        if self.shadow is not None:
            answer = self.shadow.copied(rows, answer)
        return self.batcher.post(rows, answer, deadline, level, late_at)

    async def close(self) -> None:
        """Answers what it has, then frees the engine."""
        await self.batcher.drain()
        if self.shift is not None:
            self.shift.close()
        self.set_shadow(None)
        await asyncio.to_thread(self._engine.close)  # a large network takes 25 ms to be freed

    def _policy(self) -> BatchPolicy:
        return make_policy(self.settings, self._limits, self._features * FP32_BYTES, self.wanted.label)

    def _plan(self, policy: BatchPolicy) -> BatchPlan:
        return BatchPlan(
            model=self.wanted.label,
            row_shape=self.input.shape[1:],
            inline=self._seconds_per_row * policy.max_batch < INLINE_BELOW_SECONDS,
        )

    def _input_spec(self, policy: BatchPolicy) -> InputSpec:
        return InputSpec(
            model=self.wanted.label,
            name=self.input.name,
            row_shape=self.input.shape[1:],
            features=self._features,
            max_rows=policy.queue_rows,
        )

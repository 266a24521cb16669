"""Keys that are legal alone and impossible together: refused before anything has run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchyard.training.spec.checks import Checks
from batchyard.training.spec.network import WHITENING

if TYPE_CHECKING:
    from batchyard.training.spec.job import TrainingJobSpec


def check(checks: Checks, spec: TrainingJobSpec) -> None:
    """Adds what is wrong with the keys of a whole spec together."""
    _batch(checks, spec)
    _ghosts(checks, spec)
    published = spec.publish is not None and spec.model.norm in WHITENING
    unfoldable = f"another than {' or '.join(WHITENING)}, which do not fold: leave publish out, or choose batch"
    checks.require(not published, "model.norm", spec.model.norm, unfoldable)
    half = "GPUs: set workers.gpus_per_worker to 1, or use bf16, which CPUs have too"
    checks.require(spec.precision != "fp16" or spec.workers.gpus_per_worker > 0, "precision", spec.precision, half)
    unsmoothed = "0 with loss mse: smoothing is for cross_entropy"
    checks.require(spec.loss != "mse" or not spec.label_smoothing, "label_smoothing", spec.label_smoothing, unsmoothed)
    flat = "false: mlp has no images to lay out"
    checks.require(not (spec.channels_last and spec.model.architecture == "mlp"), "channels_last", True, flat)
    traced = "false with several workers: torch.compile cannot trace batch statistics that are taken over all of them"
    checks.require(not (spec.compile and spec.workers.count > 1), "compile", True, traced)
    _stops(checks, spec)


def _batch(checks: Checks, spec: TrainingJobSpec) -> None:
    """Every worker has samples in every micro-batch, and normalisation has two."""
    batch, count, parts = spec.data.batch_size, spec.workers.count, spec.accumulate
    each = f"each of the {count} workers" + (f" in each of the {parts} micro-batches" if parts > 1 else "")
    lower = "lower workers.count" + (" or accumulate" if parts > 1 else "")
    enough = f"at least one sample for {each}: raise it, or {lower}"
    checks.require(batch >= count * parts, "data.batch_size", batch, enough)
    if spec.model.norm == "none":
        return
    local = spec.workers.sync_batch_norm == "none"
    alone = f"2 samples for {each}, as workers.sync_batch_norm is none: raise it, or use world"
    checks.require(batch >= 2 * count * parts or not local, "data.batch_size", batch, alone)
    several = "2 or more: batch normalisation needs several samples to take statistics over"
    checks.require(batch >= 2, "data.batch_size", batch, several)
    micro = f"2 samples for each of the {parts} micro-batches to normalise by: raise it, or lower accumulate"
    checks.require(batch >= 2 * parts or batch < max(2, count * parts), "data.batch_size", batch, micro)


def _ghosts(checks: Checks, spec: TrainingJobSpec) -> None:
    """Ghost batches of one size: they divide every worker's share of every micro-batch."""
    size = spec.model.ghost_size
    if size is None:
        return
    count, parts, batch = spec.workers.count, spec.accumulate, spec.data.batch_size
    share, rest = divmod(batch, count * parts)
    whole = f"{batch} samples over {count} workers" + (f" and {parts} micro-batches" if parts > 1 else "")
    expected = f"a divisor of a worker's share, which is {batch / (count * parts):g} ({whole})"
    checks.require(rest == 0 and share % size == 0, "model.ghost_size", size, expected)


def _stops(checks: Checks, spec: TrainingJobSpec) -> None:
    """A target is looked at; warm-up ends before training does."""
    blind = "1 or more with stop_at: the target is looked at when the network is evaluated"
    checks.require(spec.stop_at is None or spec.evaluate.every_steps > 0, "evaluate.every_steps", 0, blind)
    warmup = spec.schedule.warmup_steps
    shorter = f"less than steps, which is {spec.steps}"
    checks.require(spec.steps is None or warmup < max(spec.steps, 1), "schedule.warmup_steps", warmup, shorter)

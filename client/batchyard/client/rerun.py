"""Whether two jobs came out with the same weights, by digests: of what they published, or of their last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchyard.v1.training_pb2 import Checkpointed, TrainingJob

if TYPE_CHECKING:
    from batchyard.client.client import Client


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The final weights of two jobs, as far as they can be compared."""

    of: str
    """What was compared: "published weights" or "checkpoint of step N"; why not where `equal` is None."""
    equal: bool | None
    """Whether they are the same bits; None: there is nothing to compare."""
    sha256: tuple[str, str]
    """The digests of both; empty where there is none."""


def compare_weights(client: Client, one: TrainingJob, other: TrainingJob) -> Comparison:
    """Compares what two jobs that have SUCCEEDED came out with. Raises errors.RpcError."""
    published = [client.version(job.model_version).weights_sha256 if job.model_version else "" for job in (one, other)]
    if all(published):
        return _compared("published weights", *published)
    last, other_last = (_last_checkpoint(client, job) for job in (one, other))
    if last is None or other_last is None:
        return _nothing("they published no model, and not both wrote a checkpoint")
    if last.step != other_last.step:
        return _nothing(f"their last checkpoints are of steps {last.step} and {other_last.step}")
    if not (last.tensors_sha256 and other_last.tensors_sha256):
        return _nothing("one of them is from before checkpoints told the digest of their tensors")
    return _compared(f"checkpoint of step {last.step}", last.tensors_sha256, other_last.tensors_sha256)


def _compared(of: str, one: str, other: str) -> Comparison:
    return Comparison(of=of, equal=one == other, sha256=(one, other))


def _nothing(why: str) -> Comparison:
    return Comparison(of=why, equal=None, sha256=("", ""))


def _last_checkpoint(client: Client, job: TrainingJob) -> Checkpointed | None:
    """The last one that counts: what a resume has made void is not in the history."""
    last: Checkpointed | None = None
    for event in client.watch(job.name, kinds=(Checkpointed,), history_only=True):
        assert isinstance(event.detail, Checkpointed)
        last = event.detail
    return last

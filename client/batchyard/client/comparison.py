"""What is said of the final weights of two jobs, by digests."""

from __future__ import annotations

from dataclasses import dataclass

from batchyard.v1.training_pb2 import Checkpointed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The final weights of two jobs, as far as they can be compared."""

    of: str
    """What was compared: "published weights" or "checkpoint of step N"; why not where `equal` is None."""
    equal: bool | None
    """Whether they are the same bits; None: there is nothing to compare."""
    sha256: tuple[str, str]
    """The digests of both; empty where there is none."""


def of_published(one: str, other: str) -> Comparison:
    """Of the digests of what both published."""
    return _compared("published weights", one, other)


def of_checkpoints(one: Checkpointed | None, other: Checkpointed | None) -> Comparison:
    """Of the last checkpoints of both."""
    if one is None or other is None:
        return _nothing("not both published a model, nor did both write a checkpoint")
    if one.step != other.step:
        return _nothing(f"their last checkpoints are of steps {one.step} and {other.step}")
    if not (one.tensors_sha256 and other.tensors_sha256):
        return _nothing("one of them is from before checkpoints told the digest of their tensors")
    return _compared(f"checkpoint of step {one.step}", one.tensors_sha256, other.tensors_sha256)


def _compared(of: str, one: str, other: str) -> Comparison:
    return Comparison(of=of, equal=one == other, sha256=(one, other))


def _nothing(why: str) -> Comparison:
    return Comparison(of=why, equal=None, sha256=("", ""))

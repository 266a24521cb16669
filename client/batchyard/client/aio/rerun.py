"""Whether two jobs came out with the same weights, by digests: of what they published, or of their last checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchyard.client import comparison
from batchyard.client.comparison import Comparison
from batchyard.v1.training_pb2 import Checkpointed, TrainingJob

if TYPE_CHECKING:
    from batchyard.client.aio.client import AsyncClient


async def compare_weights(client: AsyncClient, one: TrainingJob, other: TrainingJob) -> Comparison:
    """Compares what two jobs that have SUCCEEDED came out with. Raises errors.RpcError."""
    if one.model_version and other.model_version:
        published = [(await client.version(job.model_version)).weights_sha256 for job in (one, other)]
        if all(published):
            return comparison.of_published(*published)
    return comparison.of_checkpoints(await _last_checkpoint(client, one), await _last_checkpoint(client, other))


async def _last_checkpoint(client: AsyncClient, job: TrainingJob) -> Checkpointed | None:
    """The last one that counts: what a resume has made void is not in the history."""
    last: Checkpointed | None = None
    async for event in client.watch(job.name, kinds=(Checkpointed,), history_only=True):
        assert isinstance(event.detail, Checkpointed)
        last = event.detail
    return last

"""LineageService: see proto/batchyard/v1/lineage.proto."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchyard.control import lineage, names
from batchyard.control.rpc import convert
from batchyard.v1 import lineage_pb2 as pb
from batchyard.v1 import lineage_pb2_grpc
from batchyard.v1.training_pb2 import Checkpointed


class LineageServicer(lineage_pb2_grpc.LineageServiceServicer):
    """Each method converts, calls once and converts back."""

    def __init__(self, lineages: lineage.Lineages) -> None:
        self._lineages = lineages

    async def GetLineage(self, request: pb.GetLineageRequest, context: Any) -> pb.Lineage:  # noqa: N802, D102
        return _lineage(await self._lineages.of(*names.parse_version(request.name)))


def _lineage(found: Sequence[lineage.VersionLineage]) -> pb.Lineage:
    asked = found[0].version
    return pb.Lineage(name=names.version(asked.model, asked.number), versions=[_version(each) for each in found])


def _version(given: lineage.VersionLineage) -> pb.VersionLineage:
    return pb.VersionLineage(
        deployment=pb.Deployment(aliases=given.aliases, latest=given.latest),
        version=convert.model_version(given.version),
        training_job=convert.training_job(given.job) if given.job else None,
        attempt=given.version.manifest.attempt if given.version.job else 0,
        checkpoint=Checkpointed(**vars(given.checkpoint)) if given.checkpoint else None,
    )

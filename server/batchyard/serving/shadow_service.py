"""ShadowService: see proto/batchyard/v1/shadow.proto."""

from __future__ import annotations

from typing import Any

from batchyard.endpoint.errors import NotFoundError, PreconditionError
from batchyard.serving.model import ServedVersion
from batchyard.serving.repository import Repository
from batchyard.serving.shadow_watch import SHADOW_ALIAS
from batchyard.v1 import shadow_pb2 as pb
from batchyard.v1 import shadow_pb2_grpc


class ShadowServicer(shadow_pb2_grpc.ShadowServiceServicer):
    """Each method converts, calls once and converts back."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def GetShadow(self, request: pb.GetShadowRequest, context: Any) -> pb.ShadowComparison:  # noqa: N802, D102
        served = self._repository.resolve(request.model.partition("@")[0], "")
        if served.shadow is None:
            raise self._why_none(served)
        report = served.shadow.report()
        compared = report.compared
        known = {
            "mean_difference": report.mean_difference,
            "largest_difference": compared.largest if compared.rows else None,
            "seconds_per_row": served.seconds_per_row_beside_shadow(),
            "shadow_seconds_per_row": report.seconds_per_row,
        }
        return pb.ShadowComparison(
            model=served.name,
            version=served.version,
            shadow_version=report.version,
            share=report.share,
            requests=compared.requests,
            rows=compared.rows,
            agreeing_rows=compared.agreeing,
            dropped_rows=report.dropped_rows,
            failed_rows=report.failed_rows,
            not_finite_rows=compared.not_finite,
            failure=report.failure,
            **{name: value for name, value in known.items() if value is not None},
        )

    def _why_none(self, served: ServedVersion) -> PreconditionError:
        """Raises UnavailableError where the shadow could not be loaded."""
        name = served.name
        try:
            shadow = self._repository.resolve(f"{name}@{SHADOW_ALIAS}", "")
        except NotFoundError:
            text = f"no version has the alias {SHADOW_ALIAS!r} here: batchyard alias {name} {SHADOW_ALIAS} VERSION"
        else:
            text = f"its shadow gets no requests: batchyard model set {name} --shadow-share 10%"
            if shadow is served:
                text = f"{SHADOW_ALIAS!r} names the version that serves, {served.version}: point it at another"
        return PreconditionError(f"model {name!r}: {text}", reason="NO_SHADOW")

"""GRPCInferenceService: the Open Inference Protocol and its extensions, one file for each.

discovery        what there is and whether it answers
infer            ModelInfer, with the classification extension
stream           ModelStreamInfer
shared_memory    {System,Cuda}SharedMemory{Status,Register,Unregister}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batchyard.oip.contract import SERVICE
from batchyard.serving.settings import Settings


class OpenInference:
    """Every method of the service, from the part that has it."""

    def __init__(self, parts: Iterable[object]) -> None:
        """Each part has some methods, by the protocol's names; what no part has is answered UNIMPLEMENTED."""
        for part in parts:
            for method in SERVICE.methods:
                if (behaviour := getattr(part, method.name, None)) is not None:
                    setattr(self, method.name, behaviour)


def extensions_of(settings: Settings) -> Iterator[str]:
    """The protocol's names of the extensions that a server with these settings has."""
    yield from ("classification", "model_configuration", "schedule_policy", "statistics", "logging")
    if settings.model_control == "explicit":
        yield from ("model_repository", "model_repository(unload_dependents)")
    if settings.shared_memory:
        yield "system_shared_memory"
    if settings.trace_dir is not None:
        yield "trace"

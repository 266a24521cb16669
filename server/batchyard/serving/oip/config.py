"""ModelConfig: how a model is batched and run, in the fields of Triton's model configuration.

Two things that Triton's fields cannot say are in `parameters`: what each engine took on this machine, and what proves
that the model computes what was trained. A request may have more rows than max_batch_size: it is run in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.oip import messages
from batchyard.serving.batching import BatchPolicy
from batchyard.serving.engines.catalogue import on_gpu
from batchyard.serving.model import ServedVersion
from batchyard.serving.repository import Repository

PIXEL_TYPES = "FP32, UINT8"


class Configuration:
    """The extension's one call."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def ModelConfig(self, request: messages.ModelConfigRequest, context: Any) -> messages.ModelConfigResponse:
        """Of one version. Raises NotFoundError, UnavailableError."""
        served = self._repository.resolve(request.name, request.version)
        numbers = map(int, self._repository.versions_of(served.name))
        tensors, types = served.input, messages.DataType
        gpu = on_gpu({share.engine for share in served.timings.chosen})
        kind = messages.ModelInstanceGroup.KIND_GPU if gpu else messages.ModelInstanceGroup.KIND_CPU
        return messages.ModelConfigResponse(
            config=messages.ModelConfig(
                name=served.name,
                platform=served.platform,
                backend=served.platform.partition("_")[0],
                version_policy=_versions(numbers),
                max_batch_size=served.policy.max_batch,
                input=[
                    messages.ModelInput(
                        name=tensors.name, data_type=types.Value(f"TYPE_{tensors.datatype}"), dims=tensors.shape[1:]
                    )
                ],
                output=[
                    messages.ModelOutput(
                        name=served.output.name,
                        data_type=types.Value(f"TYPE_{served.output.datatype}"),
                        dims=served.output.shape[1:],
                    )
                ],
                instance_group=[messages.ModelInstanceGroup(name=served.name, count=1, kind=kind)],
                default_model_filename=ONNX_MODEL,
                dynamic_batching=_batching(served.policy),
                parameters={name: messages.ModelParameter(string_value=value) for name, value in _parameters(served)},
            )
        )


def _versions(numbers: Iterable[int]) -> messages.ModelVersionPolicy:
    return messages.ModelVersionPolicy(specific=messages.ModelVersionPolicy.Specific(versions=numbers))


def _batching(policy: BatchPolicy) -> messages.ModelDynamicBatching:
    levels = policy.levels if policy.levels > 1 else 0
    return messages.ModelDynamicBatching(
        preferred_batch_size=policy.preferred,
        max_queue_delay_microseconds=round(policy.queue_delay * 1e6),
        priority_levels=levels,
        default_priority_level=policy.default_level if levels else 0,
        default_queue_policy=messages.ModelQueuePolicy(
            timeout_action=messages.ModelQueuePolicy.DELAY if policy.delay_late else messages.ModelQueuePolicy.REJECT,
            default_timeout_microseconds=round((policy.timeout or 0) * 1e6),
            allow_timeout_override=policy.override_timeout,
            max_queue_size=policy.queue_rows,
        ),
    )


def _parameters(served: ServedVersion) -> Iterator[tuple[str, str]]:
    certificate = served.manifest.certificate
    yield "version", served.version
    yield "manifest_sha256", served.wanted.manifest_sha256
    yield "certificate_max_error", f"{certificate.max_error:g}"
    yield "certificate_bound", f"{certificate.bound:g}"
    yield "input_datatypes", PIXEL_TYPES
    yield "precision", served.precision
    yield "engine", ", ".join(_shares(served))
    yield "engine_choice", _choice(served)
    yield "engine_timings", served.timings.to_json()
    if (shadow := served.shadow) is not None:
        yield "shadow", f"version {shadow.version} gets copies of {shadow.share:.3%} of the requests"


def _choice(served: ServedVersion) -> str:
    """Why these serve."""
    timings = served.timings
    if timings.measuring:
        return "measuring: the first engine that holds the certificate serves meanwhile"
    return f"measured on {timings.measured_on}" if timings.measured_on else "not measured: the server's log says why"


def _shares(served: ServedVersion) -> Iterator[str]:
    """Who serves, in words: "onnxruntime with 1 thread up to 128 rows"."""
    for share in served.timings.chosen:
        yield f"{share.engine} with {share.threads} thread{'s' * (share.threads != 1)} up to {share.up_to} rows"

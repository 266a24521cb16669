"""What inferences give, and what is done to arrays before and after: no calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from batchyard.client import errors
from batchyard.client.tensors import Array, read_outputs
from batchyard.oip import messages

PORTION_ROWS = 4096
PORTION_BYTES = 16 << 20
"""What predict() puts into one request at the most."""
PORTIONS_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class InferResult:
    """The answer to one inference."""

    model: str
    version: str
    """The version that answered."""
    outputs: dict[str, Array]
    """Output name to array."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class probabilities of N samples."""

    model: str
    version: str
    """The version that answered."""
    probabilities: Array
    """[N, classes], float64: softmax of the model's logits."""

    @property
    def labels(self) -> Array:
        """[N]: index of the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a served version has counted since it was loaded."""

    model: str
    version: str
    answered: int
    """Requests."""
    failed: int
    """Requests."""
    queue_seconds: float
    """Time that the answered requests have waited, all together."""
    request_seconds: float
    """Time from the arrival of the answered requests to their replies, all together."""
    rows: int
    batches: int


def pixel_inputs(described: messages.ModelMetadataResponse, pixels: Array, model: str) -> dict[str, Array]:
    """`pixels` as the one input of a model that is described so. Raises TensorError."""
    if len(described.inputs) != 1 or not described.outputs:
        tensors = f"{len(described.inputs)} inputs and {len(described.outputs)} outputs"
        raise errors.TensorError(f"{model}: has {tensors}; predict() needs one input", hint="Use infer().")
    wanted = described.inputs[0]
    batch = as_batch(np.asarray(pixels), tuple(wanted.shape), model)
    return {wanted.name: batch if batch.dtype == np.uint8 else batch.astype(np.float32)}


def portions(inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The rows of one input in parts that a request may have: a server bounds its rows and its bytes."""
    ((name, rows),) = inputs.items()
    most = max(1, min(PORTION_ROWS, PORTION_BYTES * len(rows) // max(1, rows.nbytes)))
    return [{name: rows[at : at + most]} for at in range(0, max(1, len(rows)), most)]


def as_batch(pixels: Array, shape: tuple[int, ...], model: str) -> Array:
    """`pixels` as [N, *shape[1:]]: axes of size one that may be left out are put in. Raises TensorError."""
    sample = shape[1:]
    for given in (pixels, pixels[np.newaxis]):
        if given.ndim == len(shape) and given.shape[1:] == sample:
            return given
    if sample[:1] == (1,):
        for given in (pixels[np.newaxis, np.newaxis], pixels[:, np.newaxis] if pixels.ndim else pixels):
            if given.ndim == len(shape) and given.shape[1:] == sample:
                return given
    raise errors.TensorError(
        f"{model}: pixels of shape {list(pixels.shape)} given; expected {['N', *sample]}",
        hint="Resize the images to the model's shape.",
    )


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def counts_of(counted: messages.ModelStatistics) -> Counts:
    """What the protocol tells of one version."""
    statistics = counted.inference_stats
    return Counts(
        model=counted.name,
        version=counted.version,
        answered=statistics.success.count,
        failed=statistics.fail.count,
        queue_seconds=statistics.queue.ns / 1e9,
        request_seconds=statistics.success.ns / 1e9,
        rows=counted.inference_count,
        batches=counted.execution_count,
    )


def result_of(response: messages.ModelInferResponse) -> InferResult:
    """What one response holds. Raises TensorError."""
    return InferResult(response.model_name, response.model_version, read_outputs(response))

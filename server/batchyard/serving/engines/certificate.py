"""Whether an engine computes what the fold certificate says the network computes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchyard.artifact.reader import Samples
from batchyard.serving.engines.interface import Engine, EngineError


def check_against_certificate(engine: Engine, samples: Samples, bound: float, max_batch: int) -> float:
    """The largest absolute error of the engine's outputs against the fp64 oracle's.

    An engine of reduced precision says as `error_share` how large its error may be instead, as a share of the largest
    absolute output.
    Raises EngineError unless the error is within `bound` and every sample keeps its argmax.
    """
    expected = samples.outputs
    if not len(samples.inputs) or len(samples.inputs) != len(expected):
        raise EngineError(f"the certificate has {len(samples.inputs)} inputs and {len(expected)} outputs")
    outputs = _run_in_batches(engine, samples.inputs, max_batch)
    if outputs.shape != expected.shape:
        raise EngineError(f"{engine.name} answers {outputs.shape}; the certificate's samples have {expected.shape}")
    bound = max(bound, getattr(engine, "error_share", 0.0) * float(np.abs(expected).max()))
    error = float(np.abs(outputs - expected).max())
    if not error <= bound:  # so that NaN fails too
        raise EngineError(f"{engine.name} is {error:g} off the certificate's samples; its bound is {bound:g}")
    differing = np.flatnonzero(outputs.argmax(axis=1) != expected.argmax(axis=1))
    if differing.size:
        raise EngineError(
            f"{engine.name} gives {differing.size} of the certificate's {len(expected)} samples another class, "
            f"first sample {differing[0]}"
        )
    return error


def _run_in_batches(engine: Engine, inputs: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    parts = [engine.run(np.ascontiguousarray(inputs[at : at + size])) for at in range(0, len(inputs), size)]
    return np.concatenate(parts).astype(np.float64)

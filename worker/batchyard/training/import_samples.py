"""The samples on which an imported network is certified: the user's, or random ones."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchyard.training.task import violation

GENERATED = 256
"""Random samples to choose from; those that the network cannot decide on prove nothing."""
MOST_BYTES = 1 << 30
"""An NPZ file may not unpack to more."""
INPUTS, LABELS = "inputs", "labels"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the certificate is made with."""

    inputs: Tensor
    """FP32 [n, ...]."""
    labels: NDArray[np.int64] | None
    """[n], where they are known."""
    origin: str
    """given or generated."""


def read_samples(path: Path, shape: tuple[int, ...], classes: int) -> Samples:
    """An NPZ file with the array `inputs` [n, *shape] and perhaps `labels` [n]. Raises SpecError."""
    arrays = _arrays(path)
    if INPUTS not in arrays or set(arrays) - {INPUTS, LABELS}:
        raise violation("samples", f"the arrays {sorted(arrays)} given; expected {INPUTS!r}, and perhaps {LABELS!r}")
    inputs, labels = arrays[INPUTS], arrays.get(LABELS)
    if inputs.shape[1:] != shape or not len(inputs) or inputs.dtype.kind not in "fiub":
        expected = f"numbers of shape {['n', *shape]}"
        raise violation("samples", f"{INPUTS} are {inputs.dtype} {list(inputs.shape)}; expected {expected}")
    if not np.isfinite(inputs).all():
        raise violation("samples", f"{INPUTS} holds numbers that are not finite")
    if labels is not None and (labels.shape != inputs.shape[:1] or labels.dtype.kind not in "iu"):
        expected = f"whole numbers of shape [{len(inputs)}]"
        raise violation("samples", f"{LABELS} are {labels.dtype} {list(labels.shape)}; expected {expected}")
    if labels is not None and not (labels.min() >= 0 and labels.max() < classes):
        raise violation("samples", f"{LABELS} are {labels.min()} to {labels.max()}; expected 0 to {classes - 1}")
    known = None if labels is None else labels.astype(np.int64)
    return Samples(inputs=torch.from_numpy(inputs.astype(np.float32)), labels=known, origin="given")


def generated_samples(shape: tuple[int, ...], scale: float | None) -> Samples:
    """Random samples, the same each time: pixels from 0 to `scale`, or without one standard normal numbers."""
    random = torch.Generator().manual_seed(0)
    if scale is None:
        inputs = torch.randn((GENERATED, *shape), generator=random)
    else:
        inputs = torch.rand((GENERATED, *shape), generator=random) * scale
    return Samples(inputs=inputs, labels=None, origin="generated")


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size <= MOST_BYTES:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise violation("samples", f"not an NPZ file of plain arrays: {error}") from error
    raise violation("samples", f"the arrays take {size} bytes; expected at most {MOST_BYTES}")

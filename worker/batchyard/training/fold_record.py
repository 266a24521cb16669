"""What a manifest records of a fold: its certificate, which the served graph must hold too, and each layer's fate."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from batchyard.artifact.manifest import CertificateRecord, FoldEntry
from batchyard.nn import Certificate, FoldedModel
from batchyard.training.events import TrainingError


def certified(certificate: Certificate, served: NDArray[np.float32]) -> CertificateRecord:
    """The certificate for the manifest, its error the larger of the folded network's and the served graph's.

    Args:
        certificate: what certify found, `expected` [samples, classes] included.
        served: the served graph's logits for the same samples.

    Raises TrainingError when the folded network, or its graph, does not equal the unfolded network.
    """
    expected = certificate.expected.numpy()
    error = float(np.max([certificate.max_error, np.abs(served - expected).max()]))  # NaN stays NaN
    differing = int((served.argmax(1) != expected.argmax(1)).sum())
    reasons = list(certificate.reasons)
    if not error <= certificate.bound:
        reasons.append(f"the served graph's largest error is {error:g}; at most {certificate.bound:g} is allowed")
    if differing:
        reasons.append(f"the served graph puts {differing} of {len(served)} samples into another class")
    if reasons or not certificate.passed:
        cause = f"the folded network does not equal the unfolded one: {'; '.join(reasons)}"
        raise TrainingError(cause, "nothing was published; train longer or with a lower optimizer.learning_rate")
    return CertificateRecord(
        passed=True, max_error=error, bound=certificate.bound, samples=len(served), digest=certificate.digest
    )


def fold_entries(folded: FoldedModel) -> tuple[FoldEntry, ...]:
    """The fold report with each normalisation layer's beta and gamma: what serving compares live data with."""
    return tuple(
        FoldEntry(
            layer=entry.name,
            status=entry.status,
            into=entry.into,
            reason=entry.reason,
            beta=_values(entry.beta),
            gamma=_values(entry.gamma),
        )
        for entry in folded.report
    )


def _values(channels: torch.Tensor | None) -> tuple[float, ...]:
    return () if channels is None else tuple(channels.detach().double().tolist())

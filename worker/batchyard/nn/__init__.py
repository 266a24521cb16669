"""Batch normalisation: synchronised, folded, certified and watched. torch is all that it needs.

The public names are those in `__all__`.
"""

from batchyard.nn.activation_stats import ActivationStats, LayerActivations
from batchyard.nn.adaptation import adapt_statistics
from batchyard.nn.convert import convert_sync_batchnorm, sync_group
from batchyard.nn.folding.certify import Certificate, certificate_digest, certify
from batchyard.nn.folding.fold import FoldedModel, FoldEntry, fold
from batchyard.nn.folding.probe import LayerProbe, ProbedLayer, layer_probe
from batchyard.nn.folding.tracing import FoldError
from batchyard.nn.input_normalization import InputNormalization
from batchyard.nn.normalizers import normalizer, placement
from batchyard.nn.population import population_statistics
from batchyard.nn.sync_batchnorm import SyncBatchNorm
from batchyard.nn.together import normalize_together, run_together

__all__ = [
    "ActivationStats",
    "Certificate",
    "FoldEntry",
    "FoldError",
    "FoldedModel",
    "InputNormalization",
    "LayerActivations",
    "LayerProbe",
    "ProbedLayer",
    "SyncBatchNorm",
    "adapt_statistics",
    "certificate_digest",
    "certify",
    "convert_sync_batchnorm",
    "fold",
    "layer_probe",
    "normalize_together",
    "normalizer",
    "placement",
    "population_statistics",
    "run_together",
    "sync_group",
]

"""Batch normalisation: synchronised, folded, certified and watched. torch is all that it needs.

The public names are those in `__all__`.
"""

from batchyard.nn.activation_stats import ActivationStats, LayerActivations
from batchyard.nn.convert import convert_sync_batchnorm
from batchyard.nn.input_normalization import InputNormalization
from batchyard.nn.normalizers import normalizer
from batchyard.nn.population import population_statistics
from batchyard.nn.sync_batchnorm import SyncBatchNorm

__all__ = [
    "ActivationStats",
    "InputNormalization",
    "LayerActivations",
    "SyncBatchNorm",
    "convert_sync_batchnorm",
    "normalizer",
    "population_statistics",
]

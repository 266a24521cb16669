"""What a worker needs to have loaded before its first step, so that a fork server loads it once for all."""

from __future__ import annotations

import importlib

import numpy as np
import torch

from batchyard.training.code_version import code_version

MODULES = (
    "batchyard.training.worker",
    "batchyard.data.uri",
    "numpy.random",
    "torch.fx.experimental.symbolic_shapes",  # the first backward pass imports it: a quarter of a second
)
"""All that jobs of most kinds import, at the start or later. None of these starts a thread or touches CUDA."""


def load() -> None:
    """Imports what takes long, and notes which code that is. Computes nothing: a fork of a process that has used
    autograd cannot use it.
    """
    for module in MODULES:
        importlib.import_module(module)
    code_version()


def begin() -> None:
    """In a fork, seeds every generator anew, as in a process of its own; Python's sees to itself."""
    np.random.seed()
    torch.default_generator.seed()

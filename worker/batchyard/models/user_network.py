"""A user's own network: `python:package.module:factory`.

Importing a module runs it. So nothing is imported unless the package is allowed in this process's environment, which
executors set from the service's --allow-python; whatever names a network, a job or an artifact, comes through here.
"""

from __future__ import annotations

import importlib
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from batchyard.models.plan import ModelError, Plan
from batchyard.training.spec.python_architecture import VARIABLE, parts, refusal


def build(architecture: str, plan: Plan, *, seed: int) -> nn.Sequential:
    """The network that the factory returns for `plan`, as a sequence of one, in training mode.

    The factory is called with torch's CPU random state set by `seed`, and restored afterwards. Raises ModelError where
    the package is not allowed, the module cannot be imported or has no such factory, and where the factory fails or
    returns no nn.Module with parameters.
    """
    factory = _factory(architecture)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        try:
            network = factory(plan)
        except Exception as error:  # whatever a user's code raises
            raise ModelError(f"model.architecture: {architecture} raised {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        returned = type(network).__name__
        raise ModelError(f"model.architecture: {architecture} returned {returned}; expected a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelError(f"model.architecture: {architecture} returned a network with no parameter to train")
    return nn.Sequential(OrderedDict(network=network)).train()


def _factory(architecture: str) -> Callable[[Plan], Any]:
    named = parts(architecture)
    refused = refusal(architecture, os.environ.get(VARIABLE, "").split(","))
    if refused or named is None:
        raise ModelError(f"model.architecture: {refused}")
    module, name = named
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # ImportError, or what the module's own code raises
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"model.architecture: {module} cannot be imported on this worker: {reason}") from error
    if not callable(found):
        raise ModelError(f"model.architecture: {module} has nothing to call named {name!r}")
    return found  # type: ignore[no-any-return]  # callable() tells no signature

"""ResNets as the benches need them: with torch's own BN layers, and as training leaves them."""

from __future__ import annotations

import torch
from torch import nn

from batchyard import models
from batchyard.nn import SyncBatchNorm


def resnet50() -> nn.Sequential:
    """For 1000 classes at 224x224, from torch's layers alone: other fusers know no others. Weights are random."""
    return of_torchs_layers("resnet50", models.Plan(image_shape=(3, 224, 224), classes=1000, activation="relu"))


def of_torchs_layers(architecture: str, plan: models.Plan, seed: int = 0) -> nn.Sequential:
    """The network with torch's batch normalisation in place of ours."""
    network = models.build(architecture, plan, seed=seed)
    for name, module in list(network.named_modules()):
        if isinstance(module, SyncBatchNorm):
            network.set_submodule(name, nn.BatchNorm2d(module.num_features))
    return network


def trained_like(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode with running statistics of real activations, as training leaves them."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    for layer in layers:
        layer.momentum = 0.1
    return model.eval()

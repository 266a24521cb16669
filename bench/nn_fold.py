"""Seconds to fold and certify a ResNet-50 at 224x224, on all cores. A part of bench/nn.py."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from batchyard.nn import certify, fold
from bench import report
from bench.resnet import resnet, trained_like

BAR_SECONDS = 5.0
ROUNDS = 5
SAMPLES = (1, 8)
"""Images that the certificate is measured on."""


def rows(rounds: int) -> list[report.Row]:
    """Fold and certify together, against the bar; folding alone, against torch.fx's fuse, which proves nothing."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = trained_like(resnet((3, 4, 6, 3)))
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    found = []
    for samples in SAMPLES:
        batch = image.expand(samples, -1, -1, -1) + 0.1 * torch.arange(samples).view(-1, 1, 1, 1)
        seconds = report.alternate({"fold + certify": _timed(functools.partial(_certified, model, batch))}, ROUNDS)
        seconds["bar"] = [BAR_SECONDS] * ROUNDS
        name = f"fold + certify, ResNet-50 at 224x224, {samples} sample{'s' if samples > 1 else ''}"
        found.append(report.compare(name, seconds, "fold + certify", "bar", unit="s", bar=1.0))
    contenders = {"fold": _timed(lambda: fold(model, (image,))), "torch.fx fuse": _timed(lambda: fuse(model))}
    folding = report.alternate(contenders, ROUNDS)
    found.append(report.compare("fold alone, ResNet-50", folding, "fold", "torch.fx fuse", unit="s"))
    return found


def _certified(model: nn.Module, batch: torch.Tensor) -> None:
    folded = fold(model, (batch[:1],))
    left = [entry.name for entry in folded.report if entry.status != "folded"]
    certificate = certify(folded, model, (batch,))
    if left or not certificate.passed:
        raise RuntimeError(f"ResNet-50 was not folded whole and certified: {left} {certificate.reasons}")


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one call; nothing is warmed up, as nothing is when a model is published."""

    def measure() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return measure

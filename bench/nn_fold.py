"""Seconds to fold and certify a ResNet-50 at 224x224, on all cores. A part of bench/nn.py."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from batchyard.nn import FoldedModel, certify, fold
from bench import report
from bench.resnet import resnet50, trained_like

BAR_SECONDS = 5.0
ROUNDS = report.LEAST_ROUNDS
SAMPLES = (1, 8)
"""Images that the certificate is measured on."""
NETWORK = "ResNet-50 at 224x224"


def rows(rounds: int) -> list[report.Row]:
    """Fold and certify together, against the bar; folding alone, against torch.fx's fuse, which proves nothing.

    Always ROUNDS rounds: one takes many seconds.
    """
    from torch.fx.experimental.optimization import fuse  # warns, when imported, of what torch has deprecated

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = trained_like(resnet50())
    images = torch.randn(max(SAMPLES), 3, 224, 224, generator=torch.Generator().manual_seed(1))
    folded = _folded_whole(model, images[:1])
    contenders = {"fold": _timed(lambda: fold(model, (images[:1],))), "torch.fx fuse": _timed(lambda: fuse(model))}
    for count in SAMPLES:
        contenders[f"certify {count}"] = _timed(functools.partial(_certified, folded, model, images[:count]))
    seconds = report.alternate(contenders, ROUNDS) | {"bar": [BAR_SECONDS] * ROUNDS}
    found = []
    for count in SAMPLES:
        both = [a + b for a, b in zip(seconds["fold"], seconds[f"certify {count}"], strict=True)]
        name = f"fold + certify, {NETWORK}, {count} sample{'s' if count > 1 else ''}"
        found.append(report.compare(name, seconds | {"both": both}, "both", "bar", unit="s", bar=1.0))
    found.append(report.compare(f"fold alone, {NETWORK}", seconds, "fold", "torch.fx fuse", unit="s"))
    return found


def _folded_whole(model: nn.Module, image: Tensor) -> FoldedModel:
    folded = fold(model, (image,))
    if left := [entry.name for entry in folded.report if entry.status != "folded"]:
        raise RuntimeError(f"{NETWORK}: not folded: {', '.join(left)}")
    return folded


def _certified(folded: FoldedModel, model: nn.Module, images: Tensor) -> None:
    certificate = certify(folded, model, (images,))
    if not certificate.passed:
        raise RuntimeError(f"{NETWORK}: not certified: {'; '.join(certificate.reasons)}")


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one call."""

    def measure() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return measure

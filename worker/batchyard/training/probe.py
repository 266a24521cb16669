"""The probe graph of a published model: what inference planes measure covariate shift with."""

from __future__ import annotations

import torch
from torch import nn

from batchyard.artifact.manifest import PROBE, ProbedLayer, ProbeRecord
from batchyard.nn import FoldedModel, layer_probe
from batchyard.training import graph

OUTPUT = "moments"


def probe_of(
    folded: FoldedModel, model: nn.Module, pixels: torch.Tensor
) -> tuple[ProbeRecord | None, dict[str, bytes]]:
    """What the probe measures, for the manifest, and its file; None and no file where there is nothing to measure.

    Args:
        folded: what `fold` returned for `model`.
        model: the unfolded network in evaluation mode.
        pixels: an example, [n, channels, height, width] with n above 1.
    """
    if not folded.report:
        return None, {}
    probe = layer_probe(folded, model)
    layers = tuple(ProbedLayer(layer=layer.name, channels=layer.channels) for layer in probe.layers)
    files = {} if probe.module is None else {PROBE: graph.export(probe.module, pixels, OUTPUT, optimize=False)}
    return ProbeRecord(layers=layers, left_out=probe.left_out), files

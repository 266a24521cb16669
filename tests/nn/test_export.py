"""A folded network leaves torch: torch.export and ONNX, with a batch of any size, within the certificate's bound."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from batchyard.nn import InputNormalization, SyncBatchNorm, certify, fold


def network() -> Any:
    """Everything that folding leaves behind: padding with a value, an affine node, grouped and transposed layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        InputNormalization(0.13, 0.31),
        nn.Conv2d(1, 8, 5, padding=2, bias=False),
        nn.MaxPool2d(2),
        SyncBatchNorm(8),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2),
        SyncBatchNorm(6),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(96, 10),
    )
    for _ in range(3):
        model(pixels(16))
    return model.eval()


def pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, 14, 14)).float()


@pytest.fixture
def quiet_exporter() -> Any:
    """The exporter warns of its own deprecations and of packages that are not installed."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def test_the_folded_network_exports_to_onnx_with_any_batch_size(tmp_path: Path, quiet_exporter: Any) -> None:
    model = network()
    folded = fold(model, (pixels(2),))
    batch = torch.export.Dim("batch")
    names: Any = {"input_names": ["pixels"], "output_names": ["logits"]}
    program = torch.onnx.export(
        folded.module, (pixels(2),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, **names
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in program.model_proto.graph.node}
    assert "BatchNormalization" not in operators
    samples = pixels(33)
    certificate = certify(folded, model, (samples,))
    for count in (1, 33):
        (logits,) = session.run(["logits"], {"pixels": samples[:count].numpy()})
        assert np.abs(logits - certificate.expected[:count].numpy()).max() <= certificate.bound


def test_the_folded_network_exports_with_torch_export(quiet_exporter: Any) -> None:
    folded = fold(network(), (pixels(2),))
    program = torch.export.export(folded.module, (pixels(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = pixels(7)
    torch.testing.assert_close(program.module()(x), folded.module(x))

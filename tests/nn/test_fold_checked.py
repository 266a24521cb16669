"""fold where forward checks its input's shape, as the normalisations of many a library do before they normalise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchyard.nn import FoldedModel, certify, fold


class CheckedNorm(nn.BatchNorm2d):
    """Batch normalisation and activation in one, behind a check."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        torch._assert(input.ndim == 4, "expected a 4-dimensional input")  # type: ignore[no-untyped-call]
        y = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        return F.relu(y)


class Scaled(nn.Module):
    """Multiplies what is normalised by how many channels there are, or as high as they are."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.conv, self.bn, self.code = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), code

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y: Tensor = self.code(x, self.bn(x))
        return y.flatten(1)


def trained(model: nn.Module) -> nn.Module:
    for bn in model.modules():
        if isinstance(bn, nn.BatchNorm2d):
            for tensor in (bn.running_mean, bn.running_var, bn.weight, bn.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 2)
    return model.eval()


def folded_and_inputs(model: nn.Module) -> tuple[FoldedModel, tuple[Tensor]]:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return fold(trained(model), (x,)), (x,)


def test_a_normalisation_that_checks_its_input_folds_and_the_check_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), CheckedNorm(8), nn.Conv2d(8, 4, 3), CheckedNorm(4))

    folded, inputs = folded_and_inputs(model)

    assert [(entry.status, entry.into) for entry in folded.report] == [("folded", "0"), ("folded", "2")]
    assert certify(folded, model, inputs).passed
    with pytest.raises(AssertionError, match="expected a 4-dimensional input"):
        folded.module(inputs[0][0])


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(lambda x, y: y * x.size(1), id="size"),
        pytest.param(lambda x, y: y * x.shape[1], id="shape"),
        pytest.param(lambda x, y: y * y.dim() + x.numel(), id="dim-and-numel"),
    ],
)
def test_who_asks_for_a_shape_keeps_no_normalisation_from_folding(code: Any) -> None:
    model = Scaled(code)

    folded, inputs = folded_and_inputs(model)

    assert [entry.status for entry in folded.report] == ["folded"]
    assert certify(folded, model, inputs).passed


def test_who_reads_values_does() -> None:
    model = Scaled(lambda x, y: y * x.size(1) + x)

    folded, inputs = folded_and_inputs(model)

    assert [entry.status for entry in folded.report] == ["affine"]
    assert certify(folded, model, inputs).passed


def test_another_size_than_the_originals_is_found() -> None:
    model = Scaled(lambda x, y: y * x.size(1))
    folded, inputs = folded_and_inputs(model)
    (asking,) = (node for node in folded.module.graph.nodes if node.target == "size")
    asking.args = (asking.args[0], 2)
    folded.module.recompile()

    certificate = certify(folded, model, inputs)

    assert not certificate.passed
    assert any(reason.startswith("layer size") for reason in certificate.reasons)

"""certify: what it vouches for, and that nothing of it can be changed unseen."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn import FoldedModel, certificate_digest, certify, fold


def network() -> Any:
    """Layers that folding changes, one that it does not, and a normalisation that stays as an affine node."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(),
        nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 5),
    )  # fmt: skip
    for bn in model:
        if isinstance(bn, _BatchNorm):
            for tensor in (bn.running_mean, bn.running_var, bn.weight, bn.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 2)
    return model.eval()


def samples() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


MODEL = network()
FOLDED = fold(MODEL, (samples(),))
SIZES = {name: tensor.numel() for name, tensor in FOLDED.module.state_dict().items()}


def test_the_network_has_every_kind_of_layer() -> None:
    assert [entry.status for entry in FOLDED.report] == ["folded", "affine", "folded"]
    assert torch.equal(FOLDED.module.get_parameter("3.weight"), MODEL[3].weight)
    assert certify(FOLDED, MODEL, (samples(),)).passed


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(SIZES)), place=st.floats(0, 1, exclude_max=True), by=st.sampled_from([0.99, 1.001]))
def test_any_one_number_that_was_changed_fails_it_and_changes_its_digest(name: str, place: float, by: float) -> None:
    tampered = dataclasses.replace(FOLDED, module=copy.deepcopy(FOLDED.module))
    with torch.no_grad():
        tampered.module.state_dict()[name].view(-1)[int(place * SIZES[name])].mul_(by)
    certificate = certify(tampered, MODEL, (samples(),))
    assert not certificate.passed
    assert any(reason.startswith("layer ") for reason in certificate.reasons)
    assert certificate.digest != certificate_digest(FOLDED, (samples(),))


def changed_report(folded: FoldedModel) -> FoldedModel:
    first, *others = folded.report
    return dataclasses.replace(folded, report=(dataclasses.replace(first, status="affine"), *others))


def changed_graph(folded: FoldedModel) -> FoldedModel:
    module = copy.deepcopy(folded.module)
    (relu, *_) = (node for node in module.graph.nodes if node.name == "_2")
    relu.replace_all_uses_with(relu.args[0])
    module.graph.erase_node(relu)
    module.recompile()
    return dataclasses.replace(folded, module=module)


def test_the_digest_covers_graph_report_and_samples() -> None:
    digest = certificate_digest(FOLDED, (samples(),))
    assert certificate_digest(fold(network(), (samples(),)), (samples(),)) == digest
    assert certificate_digest(changed_report(FOLDED), (samples(),)) != digest
    assert certificate_digest(changed_graph(FOLDED), (samples(),)) != digest
    assert certificate_digest(FOLDED, (samples() + 1,)) != digest


def test_a_layer_that_was_taken_out_of_the_graph_fails_it() -> None:
    assert not certify(changed_graph(FOLDED), MODEL, (samples(),)).passed


class Wide(nn.Module):
    """A normalisation behind a concatenation of as many layers as a DenseNet's, each of which takes its part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, 40, 3, padding=1) for _ in range(8))
        self.norm, self.head = nn.BatchNorm2d(320), nn.Conv2d(320, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(torch.cat([part(torch.relu(x + i)) for i, part in enumerate(self.parts)], 1)))
        return y.flatten(1)


@pytest.mark.parametrize("part", [0, 3, 7])
def test_values_that_are_probed_side_by_side_hide_no_change_in_one_of_them(part: int) -> None:
    model = Wide().eval()
    nn.init.uniform_(model.norm.weight, 0.5, 2)
    x = torch.randn(2, 3, 8, 8)
    folded = fold(model, (x,))
    good = certify(folded, model, (x,))
    assert good.passed, good.reasons
    assert sum(proof.probes for proof in good.layers) < 1000
    with torch.no_grad():
        folded.module.get_parameter(f"parts.{part}.weight")[7, 2, 0, 1] *= 1.001
    assert not certify(folded, model, (x,)).passed

"""fold: the folded network gives what the unfolded one gives, and the report tells what happened."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn import FoldedModel, FoldError, InputNormalization, SyncBatchNorm, certify, fold


def trained(model: Any) -> Any:
    """Statistics and parameters that are not easy: means off zero, negative gammas."""
    for bn in model.modules():
        if isinstance(bn, _BatchNorm) and bn.running_mean is not None:
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.2, 3)  # type: ignore[union-attr]
            if bn.affine:
                nn.init.normal_(bn.weight)
                nn.init.normal_(bn.bias)
    return model.eval()


def folded_truly(model: Any, *inputs: Tensor) -> FoldedModel:
    """Folds, and checks that nothing changed: neither the model nor its results."""
    before = copy.deepcopy(model.state_dict())
    folded = fold(model, inputs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    certificate = certify(folded, model, inputs)
    assert certificate.passed, certificate.reasons
    return folded


def statuses(folded: FoldedModel) -> dict[str, str]:
    return {e.name: e.status for e in folded.report}


def layers_left(folded: FoldedModel) -> list[str]:
    return [type(m).__name__ for m in folded.module.modules()][1:]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda b: nn.Linear(6, 8, b), (5, 6)),
        (lambda b: nn.Conv1d(6, 8, 3, padding=1, bias=b), (2, 6, 9)),
        (lambda b: nn.Conv2d(6, 8, 3, stride=2, padding=(1, 2), groups=2, bias=b), (2, 6, 7, 8)),
        (lambda b: nn.Conv2d(6, 8, 3, padding="same", padding_mode="reflect", dilation=2, bias=b), (2, 6, 7, 8)),
        (lambda b: nn.Conv3d(6, 8, 2, padding=1, padding_mode="circular", bias=b), (2, 6, 4, 5, 3)),
        (lambda b: nn.ConvTranspose1d(6, 8, 3, stride=2, groups=2, bias=b), (2, 6, 5)),
        (lambda b: nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1, bias=b), (2, 6, 5, 4)),
        (lambda b: nn.ConvTranspose3d(6, 8, 2, groups=2, bias=b), (2, 6, 3, 2, 3)),
    ],
)
def test_it_folds_into_the_layer_before(
    make: Callable[[bool], nn.Module], shape: tuple[int, ...], bias: bool, affine: bool
) -> None:
    model = trained(nn.Sequential(make(bias), SyncBatchNorm(8, affine=affine), nn.ReLU()))
    folded = folded_truly(model, torch.randn(shape))
    assert statuses(folded) == {"1": "folded"}
    assert folded.report[0].into == "0"
    assert layers_left(folded) == [type(model[0]).__name__, "ReLU"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 8), (5, 6)),
        (nn.Conv2d(6, 9, 3, groups=3), (2, 6, 7, 8)),
        (nn.Conv2d(6, 9, 3, padding=1, padding_mode="replicate"), (2, 6, 7, 8)),
        (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(6, 8, 1)), (2, 6, 6, 6)),
        (nn.Sequential(nn.Flatten(), nn.Linear(6 * 4 * 3, 5)), (2, 6, 4, 3)),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 5)), (2, 6, 4, 3)),
    ],
)
def test_it_folds_into_the_layer_behind(layer: nn.Module, shape: tuple[int, ...]) -> None:
    folded = folded_truly(trained(nn.Sequential(nn.ReLU(), SyncBatchNorm(6), layer)), torch.randn(shape))
    assert statuses(folded) == {"1": "folded"}


def test_a_normalisation_before_zero_padding_stays_and_the_report_says_why() -> None:
    model = trained(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)))
    entry = folded_truly(model, torch.randn(2, 3, 5, 5)).report[0]
    assert (entry.status, entry.into) == ("affine", "")
    assert "pads with zeros" in entry.reason


def test_one_channel_before_zero_padding_is_padded_with_the_value_that_becomes_zero() -> None:
    model = trained(nn.Sequential(InputNormalization(0.13, 0.31), nn.Conv2d(1, 4, 5, padding=2), nn.ReLU()))
    folded = folded_truly(model, torch.randint(0, 256, (3, 1, 9, 9)).float())
    assert [(e.name, e.status, e.into) for e in folded.inputs] == [("0", "folded", "1")]


def test_raw_pixels_go_straight_into_the_first_linear_layer() -> None:
    model: Any = nn.Sequential(InputNormalization([0.1, 0.2], [0.3, 0.4]), nn.Flatten(), nn.Linear(2 * 16, 8))
    model = trained(model.append(SyncBatchNorm(8)).append(nn.Sigmoid()).append(nn.Linear(8, 3)))
    folded = folded_truly(model, torch.randint(0, 256, (3, 2, 4, 4)).float())
    assert layers_left(folded) == ["Flatten", "Linear", "Sigmoid", "Linear"]
    whole_numbers = folded_truly(model, torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8))
    assert whole_numbers.inputs[0].status == "folded"


@pytest.mark.parametrize(("gamma", "status"), [(1.5, "folded"), (-1.5, "affine")])
def test_a_maximum_lets_it_pass_only_with_positive_gamma(gamma: float, status: str) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4)))
    nn.init.constant_(model[2].weight, gamma)
    assert statuses(folded_truly(model, torch.randn(2, 3, 8, 8))) == {"2": status}


def test_two_in_a_row_fold_into_one_layer() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU()))
    folded = folded_truly(model, torch.randn(2, 3, 8, 8))
    assert statuses(folded) == {"1": "folded", "2": "folded"}
    alone = folded_truly(trained(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))), torch.randn(4, 3))
    assert statuses(alone) == {"0": "folded", "1": "affine"}


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x), x, self.b(x)], dim=1)
        return F.relu(self.norm(joined))


def test_behind_a_concatenation_every_source_takes_its_part() -> None:
    folded = folded_truly(trained(Concatenation()), torch.randn(2, 3, 6, 6))
    assert (folded.report[0].status, folded.report[0].into) == ("affine", "a, b")
    assert "x has other readers" in folded.report[0].reason


class Reread(nn.Module):
    """A concatenation of values that all have other readers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        values = [torch.relu(x + i) for i in range(6)]
        total: Tensor = self.norm(torch.cat(values, 1)).mean(1, keepdim=True)
        for value in values:
            total = total + value
        return total


def test_of_many_reasons_the_report_names_three() -> None:
    reason = folded_truly(trained(Reread()), torch.randn(2, 1, 3, 3)).report[0].reason
    assert reason.count("has other readers") == 3
    assert "and 3 more like these" in reason


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(self.conv(x)))
        x = F.relu(self.one(self.conv(x)), inplace=True)
        total: Tensor = self.two(self.conv(x)) + self.conv(x)
        return total


def test_a_layer_and_a_normalisation_that_are_used_several_times_fold_at_every_place() -> None:
    folded = folded_truly(trained(CalledTwice()), torch.randn(2, 3, 6, 6))
    assert statuses(folded) == {"one": "folded", "one#2": "folded", "two": "folded"}


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        y = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps)
        return F.relu_(y) + F.conv2d(x, self.conv.weight, padding=1)


def test_functional_calls_fold_like_modules() -> None:
    folded = folded_truly(trained(Functional()), torch.randn(2, 3, 6, 6))
    assert [(e.name, e.status) for e in folded.report] == [("norm", "folded")]


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.norm(y), y


def test_a_layer_that_others_read_keeps_its_values() -> None:
    entry = folded_truly(trained(Watched()), torch.randn(2, 3, 6, 6)).report[0]
    assert entry.status == "affine"
    assert "conv has other readers" in entry.reason


def test_a_layer_with_a_hook_is_left_alone() -> None:
    hooked = trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    hooked[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert "has forward hooks" in folded_truly(hooked, torch.randn(5, 3)).report[0].reason


def test_a_parametrised_weight_folds_as_what_it_is_computed_to_be() -> None:
    linear = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    conv = torch.nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 4, 1))
    for layer, shape in ((linear, (5, 3)), (conv, (5, 3, 6))):
        folded = folded_truly(trained(nn.Sequential(layer, nn.BatchNorm1d(4))), torch.randn(shape))
        assert statuses(folded) == {"1": "folded"}
        assert not hasattr(folded.module.get_submodule("0"), "parametrizations")


def test_statistics_of_the_batch_itself_cannot_be_folded() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval()
    entry = fold(model, (torch.randn(5, 3),)).report[0]
    assert entry.status == "refused"
    assert "its own batch" in entry.reason


def test_values_that_decide_the_path_are_refused_with_advice() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(FoldError, match="cannot be traced"):
        fold(Deciding(), (torch.randn(2, 3),))


def test_one_changed_weight_fails_the_certificate_and_changes_its_digest() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)))
    x = torch.randn(8, 3, 6, 6)
    folded = fold(model, (x,))
    good = certify(folded, model, (x,))
    with torch.no_grad():
        folded.module.get_parameter("0.weight")[1, 2, 0, 0] *= 1.0001
    bad = certify(folded, model, (x,))
    assert good.passed
    assert not bad.passed
    assert "layer 0" in bad.reasons[0]
    assert good.digest != bad.digest

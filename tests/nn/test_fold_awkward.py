"""fold on code as people write it: in-place statements, odd orders, fixed dtypes; and on random networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn import FoldError, certify, fold


def trained(model: Any) -> Any:
    for bn in model.modules():
        if isinstance(bn, _BatchNorm):
            assert bn.running_mean is not None
            assert bn.running_var is not None
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2)
            nn.init.normal_(bn.weight)
            nn.init.normal_(bn.bias)
    return model.eval()


class Code(nn.Module):
    """A convolution, a BN over its 4 channels, and whatever `code` does with them."""

    def __init__(self, code: Callable[[Any, Any], Any], channels: int = 4) -> None:
        super().__init__()
        self.code = code
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(channels)
        self.same = nn.Identity()
        self.next, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4 * 36, 5)
        self.gate, self.map = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


def statement_in_place(m: Any, x: Any) -> Any:
    y = m.conv(x)
    y.add_(1)
    return m.bn(y)


def input_changed_later(m: Any, x: Any) -> Any:
    y = m.bn(m.conv(x))
    x.mul_(3)
    return m.next(y)


def value_changed_after_bn_read_it(m: Any, x: Any) -> Any:
    y = F.relu(m.conv(x))
    z = m.bn(y)
    return F.relu_(y) + m.next(z)


def two_readers(m: Any, x: Any) -> Any:
    y = m.bn(F.relu(m.conv(x)))
    return m.next(y).sum() + m.next(y)


AWKWARD: dict[str, tuple[Callable[[Any, Any], Any], int, str]] = {
    "scaled in between": (lambda m, x: m.bn((1 - m.conv(x) * 2) / 3), 4, "folded"),
    "scaled behind": (lambda m, x: m.next((m.bn(F.relu(m.conv(x))) - 3) * 2), 4, "folded"),
    "scaled and read twice": (lambda m, x: m.bn((y := m.conv(x)) * 2) + y, 4, "affine"),
    "a constant map": (lambda m, x: m.bn(m.conv(x) * m.map), 4, "affine"),
    "viewed by batch size": (lambda m, x: m.head(m.bn(m.conv(x)).view(x.size(0), -1)), 4, "folded"),
    "in place on a view": (lambda m, x: m.bn(m.conv(x)).flatten(1).relu_(), 4, "affine"),
    "in place as a statement": (statement_in_place, 4, "folded"),
    "input changed later": (input_changed_later, 4, "affine"),
    "value changed after BN read it": (value_changed_after_bn_read_it, 4, "folded"),
    "weight computed on the way": (lambda m, x: m.bn(F.conv2d(x, m.conv.weight - 1, m.conv.bias)), 4, "affine"),
    "a mapping as output": (lambda m, x: {"a": m.bn(m.conv(x)), "b": [x]}, 4, "folded"),
    "a keyword argument": (lambda m, x: m.bn(input=m.conv(x)), 4, "folded"),
    "two readers ahead": (two_readers, 4, "folded"),
    "one source twice": (lambda m, x: m.bn(torch.cat([y := m.conv(x), y], 1)), 8, "affine"),
    "one term twice": (lambda m, x: m.bn((y := m.conv(x)) + y), 4, "affine"),
    "a sum of two layers": (lambda m, x: m.bn(m.conv(x) + m.next(m.conv(x))), 4, "folded"),
    "a learned gate": (lambda m, x: m.bn(m.conv(x) * m.gate.view(1, -1, 1, 1)), 4, "folded"),
    "a functional maximum": (lambda m, x: m.bn(F.max_pool2d(m.conv(x), 2)), 4, "affine"),
    "a functional mean": (lambda m, x: m.bn(F.dropout(F.adaptive_avg_pool2d(m.conv(x), 2), 0.5, False)), 4, "folded"),
    "a functional average": (lambda m, x: m.bn(F.avg_pool2d(m.conv(x), 2)), 4, "folded"),
    "a mean over places": (lambda m, x: m.bn(m.conv(x).mean((2, 3), keepdim=True)), 4, "folded"),
    "split behind an identity": (lambda m, x: torch.cat(m.same(m.bn(m.conv(x))).split(2, 1)[::-1], 1), 4, "folded"),
    "a difference behind an identity": (
        lambda m, x: m.same(m.next(F.relu(y := m.bn(m.conv(x))))) - m.same(y),
        4,
        "folded",
    ),
    "arithmetic behind an identity": (lambda m, x: -(m.same(m.bn(m.conv(x))) * 100 - 3), 4, "folded"),
    "a fixed dtype": (lambda m, x: m.bn(m.conv(x.float()).to(torch.float32)), 4, "affine"),
}


DECIDING: dict[str, Callable[[Any, Any], Any]] = {
    "by channels": lambda m, x: m.bn(m.conv(x)) if x.shape[1] == 3 else x,
    "by rank": lambda m, x: m.bn(m.conv(x)) if x.dim() == 4 else x.unsqueeze(0),
    "over parts": lambda m, x: sum(m.bn(m.conv(part)) for part in torch.cat([x, x], 1).chunk(2, 1)),
}


@pytest.mark.parametrize("name", DECIDING)
def test_decisions_on_shapes_are_followed(name: str) -> None:
    model, x = trained(Code(DECIDING[name])), torch.randn(3, 3, 8, 8)
    folded = fold(model, (x,))
    assert certify(folded, model, (torch.randn(5, 3, 8, 8),)).passed
    assert {entry.status for entry in folded.report} == {"folded"}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (lambda m, x: m.bn(m.conv(x)) if x.sum() > 0 else x, "cannot be traced"),
        (lambda m, x: m.bn(m.conv(x)) if x.shape[0] == 3 else x, "depends on the batch size"),
        (lambda m, x: sum(m.bn(m.conv(part)) for part in x.chunk(2, 0)), "depends on the batch size"),
    ],
)
def test_decisions_on_values_or_the_batch_size_are_refused(code: Callable[[Any, Any], Any], why: str) -> None:
    with pytest.raises(FoldError, match=why):
        fold(trained(Code(code)), (torch.randn(3, 3, 8, 8),))


@pytest.mark.parametrize("name", AWKWARD)
def test_it_is_never_silently_wrong(name: str) -> None:
    code, channels, status = AWKWARD[name]
    model, x = trained(Code(code, channels)), torch.randn(3, 3, 8, 8)
    folded = fold(model, (x,))
    certificate = certify(folded, model, (x,))
    assert certificate.passed, certificate.reasons
    assert [entry.status for entry in folded.report] == [status]
    assert "contiguous" not in folded.module.code


class Tokens(nn.Module):
    """A linear layer over tokens, whose features `code` normalises."""

    def __init__(self, code: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.code, self.linear, self.norm = code, nn.Linear(5, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Any:
        return self.code(self, self.linear(x))


TOKENS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "as rows": (lambda m, y: m.norm(y.flatten(0, 1)).reshape_as(y), "folded"),
    "as rows by view": (lambda m, y: m.norm(y.view(-1, 4)), "folded"),
    "transposed": (lambda m, y: m.norm(y.transpose(1, 2)).transpose(1, 2), "folded"),
    "transposed from behind": (lambda m, y: m.norm(torch.transpose(y, -1, 1)), "folded"),
    "permuted": (lambda m, y: m.norm(y.permute(0, 2, 1)).permute((0, 2, 1)), "folded"),
    "batch exchanged": (lambda m, y: m.norm(y.permute(1, 2, 0)), "folded"),
    "tokens as channels": (lambda m, y: m.norm(y[:, :4]), "affine"),
    "tokens as channels, permuted": (lambda m, y: m.norm(y[:, :4].permute(0, 1, 2)), "affine"),
    "read again": (lambda m, y: m.norm(y.flatten(0, 1)).reshape_as(y) + y, "affine"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_features_of_tokens_fold_into_their_linear_layer(name: str) -> None:
    code, status = TOKENS[name]
    model, x = trained(Tokens(code)), torch.randn(3, 7, 5)
    folded = fold(model, (x,))
    assert [entry.status for entry in folded.report] == [status]
    certificate = certify(folded, model, (x,))
    assert certificate.passed, certificate.reasons
    if status == "folded":
        with torch.no_grad():
            folded.module.get_parameter("linear.weight")[2, 3] *= 1.001
        assert not certify(folded, model, (x,)).passed


def test_flattening_batch_and_channels_moves_the_channels_elsewhere() -> None:
    model = trained(nn.Sequential(nn.Conv1d(3, 3, 1), nn.Flatten(0, 1), nn.BatchNorm1d(3)))
    assert fold(model, (torch.randn(2, 3, 3),)).report[0].status == "affine"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_fold_in_fp64_and_come_back_as_they_were(dtype: torch.dtype) -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))).to(dtype)
    folded = fold(model, (torch.randn(2, 3, 6, 6, dtype=dtype),))
    certificate = certify(folded, model, (torch.randn(9, 3, 6, 6, dtype=dtype),))
    assert certificate.passed, certificate.reasons
    assert {t.dtype for t in folded.module.state_dict().values()} == {dtype}


def test_statistics_that_are_not_finite_are_refused_and_get_no_certificate() -> None:
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    model[1].running_var.fill_(torch.nan)
    x = torch.randn(2, 3, 6, 6)
    folded = fold(model, (x,))
    assert (folded.report[0].status, folded.report[0].reason) == (
        "refused",
        "its statistics or parameters are not finite",
    )
    assert not certify(folded, model, (x,)).passed


def test_a_network_that_hides_something_from_its_graph_is_refused() -> None:
    class Hidden(nn.Sequential):
        calls = 0

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            Hidden.calls += 1
            y: Tensor = super().forward(input) * Hidden.calls  # type: ignore[no-untyped-call]
            return y

    with pytest.raises(FoldError, match="does not show"):
        fold(trained(Hidden(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), (torch.randn(2, 3, 6, 6),))


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "conv": lambda c: nn.Conv2d(c, c, 3),
    "padded": lambda c: nn.Conv2d(c, c, 3, padding=1),
    "grouped": lambda c: nn.Conv2d(c, c, 1, groups=2, bias=False),
    "circular": lambda c: nn.Conv2d(c, c, 3, padding=1, padding_mode="circular"),
    "transposed": lambda c: nn.ConvTranspose2d(c, c, 2, 2, groups=2),
    "relu": lambda c: nn.ReLU(inplace=True),
    "maximum": lambda c: nn.MaxPool2d(2, 1),
    "average": lambda c: nn.AvgPool2d(2, 1, padding=1),
    "dropout": lambda c: nn.Dropout(inplace=True),
}


class Network(nn.Module):
    """Layers in a row; some results are kept and added or concatenated later."""

    def __init__(self, kinds: list[str], join: str) -> None:
        super().__init__()
        self.first = nn.ModuleList(LAYERS[kind](4) for kind in kinds)
        self.side, self.join = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), join
        width = 8 if join == "cat" else 4
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4), nn.Flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.first:
            x = layer(x)
        joined = torch.cat([x, self.side(x)], 1) if self.join == "cat" else x + self.side(x)
        y: Tensor = self.last(joined)
        return y


@settings(max_examples=40, deadline=None, derandomize=True)
@given(kinds=st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=6), join=st.sampled_from(["cat", "add"]))
def test_random_networks_fold_or_say_why_and_pass(kinds: list[str], join: str) -> None:
    torch.manual_seed(0)
    model, x = trained(Network(["conv", *kinds], join)), torch.randn(3, 4, 16, 16)
    folded = fold(model, (x,))
    certificate = certify(folded, model, (x,))
    assert certificate.passed, certificate.reasons
    assert all(entry.reason for entry in folded.report if entry.status != "folded")
    assert not [m for m in folded.module.modules() if isinstance(m, _BatchNorm)]


def test_dropout_in_place_drops_nothing_in_evaluation_and_keeps_nothing_from_folding() -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2, inplace=True), nn.Linear(4, 3)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), *head).eval()
    x = torch.randn(2, 3, 6, 6)
    folded = fold(model, (x,))
    assert [entry.status for entry in folded.report] == ["folded"]
    assert certify(folded, model, (x,)).passed


def test_an_activation_in_place_behind_a_layer_that_passes_its_input_on_keeps_nothing_from_folding() -> None:
    normalized = [nn.BatchNorm2d(4), nn.Identity(), nn.ReLU(inplace=True)]  # what timm's networks are made of
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *normalized, nn.Conv2d(4, 4, 3), *normalized, nn.Flatten()).eval()
    x = torch.randn(2, 3, 6, 6)
    folded = fold(model, (x,))
    assert [entry.status for entry in folded.report] == ["folded", "folded"]
    assert certify(folded, model, (x,)).passed


def test_an_identity_with_a_hook_is_no_identity() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Identity()).eval()
    model[2].register_forward_hook(lambda module, args, output: 2 * output)
    x = torch.randn(2, 3, 6, 6)
    folded = fold(model, (x,))
    torch.testing.assert_close(folded.module(x), model(x), rtol=1e-4, atol=1e-5)

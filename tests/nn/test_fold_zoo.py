"""fold on the blocks of well-known networks, as their papers and common code write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn import certify, convert_sync_batchnorm, fold


def conv_bn(inputs: int, outputs: int, kernel: int, *, activation: Any = nn.ReLU, **settings: Any) -> nn.Sequential:
    settings.setdefault("padding", kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **settings)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation(inplace=True))


class Bottleneck(nn.Module):
    """ResNet (arXiv 1512.03385), with the stride where version 1.5 has it."""

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != 4 * width:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        y: Tensor = self.relu(out)
        return y


class ResNet(nn.Module):
    def __init__(self, blocks: Sequence[int], width: int = 64, classes: int = 1000, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        layers: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks):
            for i in range(count):
                stride = 2 if stage and not i else 1
                layers.append(Bottleneck(inputs, width << stage, stride, groups))
                inputs = 4 * (width << stage)
        self.layers = nn.Sequential(*layers)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = torch.flatten(self.avgpool(self.layers(x)), 1)
        y: Tensor = self.fc(x)
        return y


class PreActivationBlock(nn.Module):
    """Pre-activation ResNet (arXiv 1603.05027) with projection shortcuts: BN reads a sum of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out)
        out = self.conv1(out)
        y: Tensor = self.conv2(F.relu(self.bn2(out))) + shortcut
        return y


def preactivation_resnet() -> nn.Sequential:
    stem = nn.Conv2d(3, 8, 3, padding=1)
    head = [nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 7)]
    return nn.Sequential(stem, PreActivationBlock(8, 16, 1), PreActivationBlock(16, 24, 2), *head)


class InceptionBlock(nn.Module):
    """BN-Inception (arXiv 1502.03167, figure 5): 1x1 | 3x3 | double 3x3 | pool projection."""

    def __init__(self, inputs: int, one: int, three: tuple[int, int], double: tuple[int, int], project: int) -> None:
        super().__init__()
        self.branch1 = conv_bn(inputs, one, 1)
        self.branch2 = nn.Sequential(conv_bn(inputs, three[0], 1), conv_bn(three[0], three[1], 3))
        last = conv_bn(double[1], double[1], 3)
        self.branch3 = nn.Sequential(conv_bn(inputs, double[0], 1), conv_bn(double[0], double[1], 3), last)
        self.branch4 = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, project, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def inception() -> nn.Sequential:
    blocks = [InceptionBlock(12, 4, (4, 6), (4, 6), 4), InceptionBlock(20, 6, (4, 6), (4, 6), 2)]
    return nn.Sequential(conv_bn(3, 12, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 7))


class InvertedResidual(nn.Module):
    """MobileNet v2 (arXiv 1801.04381): depthwise, and a linear bottleneck without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        depthwise = conv_bn(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6)
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(conv_bn(inputs, hidden, 1, activation=nn.ReLU6), depthwise, *project)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv(x) if self.residual else self.conv(x)
        return y


class SqueezeExcite(nn.Module):
    """MobileNet v3 (arXiv 1905.02244): a gate from the mean of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)), inplace=True)))
        return x * gate


def mobilenet() -> nn.Sequential:
    blocks = [InvertedResidual(8, 8, 1, 2), InvertedResidual(8, 12, 2, 3), SqueezeExcite(12)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 7)]
    return nn.Sequential(conv_bn(3, 8, 3, stride=2, activation=nn.Hardswish), *blocks, *head)


class DenseLayer(nn.Module):
    """DenseNet (arXiv 1608.06993): BN, ReLU, conv twice, on the concatenation of all that came before."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = F.relu(self.norm1(torch.cat(features, 1)), inplace=True)
        y: Tensor = self.conv2(F.relu(self.norm2(self.conv1(x)), inplace=True))
        return y


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8)
        self.block = nn.ModuleList(DenseLayer(8 + 4 * i, 4) for i in range(3))
        self.norm5, self.classifier = nn.BatchNorm2d(20), nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        features = [F.max_pool2d(F.relu(self.norm0(self.stem(x)), inplace=True), 3, 2, 1)]
        for layer in self.block:
            features.append(layer(features))
        out = F.relu(self.norm5(torch.cat(features, 1)), inplace=True)
        out = torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1)
        y: Tensor = self.classifier(out)
        return y


class Autoencoder(nn.Module):
    """DCGAN-like: transposed convolutions, a BN on the input and one on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.encode = nn.Sequential(nn.Conv2d(3, 8, 4, 2), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True))
        up = nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2, bias=False)
        self.decode = nn.Sequential(up, nn.BatchNorm2d(6), nn.ReLU(True), nn.ConvTranspose2d(6, 3, 4, 2), nn.Tanh())
        self.out = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.decode(self.encode(self.norm(x))))
        return y


class RepVGGBlock(nn.Module):
    """RepVGG (arXiv 2101.03697): three normalised branches, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.three, self.three_bn = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.one, self.one_bn = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.identity_bn, self.sum_bn = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        total = self.three_bn(self.three(x)) + self.one_bn(self.one(x))
        y: Tensor = F.relu(self.sum_bn(total) + self.identity_bn(x))
        return y


def repvgg() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), RepVGGBlock(8), RepVGGBlock(8), nn.Flatten(), nn.Linear(8 * 18 * 18, 7)
    )


ZOO: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "ResNet": (lambda: ResNet((1, 2), 8, 7), {"folded": 12}),
    "ResNeXt": (lambda: ResNet((1, 1), 8, 7, groups=4), {"folded": 9}),
    "pre-activation ResNet": (preactivation_resnet, {"folded": 5}),
    "Inception": (inception, {"folded": 15}),
    "MobileNet": (mobilenet, {"folded": 7}),
    "DenseNet": (DenseNet, {"folded": 4, "affine": 4}),
    "autoencoder": (Autoencoder, {"folded": 3, "affine": 1}),
    "RepVGG": (repvgg, {"folded": 6, "affine": 2}),
}


def trained(model: Any) -> Any:
    """Statistics and parameters that are not easy, yet keep activations in range."""
    for bn in model.modules():
        if isinstance(bn, _BatchNorm):
            assert bn.running_mean is not None
            assert bn.running_var is not None
            bn.running_mean.normal_(0, 0.3)
            bn.running_var.uniform_(0.3, 2)
            nn.init.normal_(bn.weight, 0.3, 1)
            nn.init.normal_(bn.bias, 0, 0.5)
    return model.eval()


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("synchronised", [False, True])
def test_every_network_folds_as_far_as_it_may_and_stays_itself(name: str, synchronised: bool) -> None:
    make, expected = ZOO[name]
    model = trained(make())
    if synchronised:
        model = convert_sync_batchnorm(model)
    x = torch.randn(4, 3, 36, 36)
    folded = fold(model, (x[:2],))
    certificate = certify(folded, model, (x,))
    assert certificate.passed, certificate.reasons
    assert max(proof.roundings for proof in certificate.layers) < 4
    assert dict(Counter(entry.status for entry in folded.report)) == expected
    assert all(entry.reason for entry in folded.report if entry.status != "folded")
    assert not [m for m in folded.module.modules() if isinstance(m, _BatchNorm)]

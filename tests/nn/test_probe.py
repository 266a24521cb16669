"""The probe measures every normalisation layer's output in the folded network, wherever its map has gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn import InputNormalization, LayerProbe, fold, layer_probe


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    nn.init.normal_(parameter, generator=generator)
    return model.eval()


class Residual(nn.Module):
    """Normalisation before and after convolutions, one of them after a sum: some stay, some go forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.first = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
        self.norm, self.second = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.after = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.before(torch.relu(x))))
        x = torch.relu(x + self.norm(self.second(x)))
        normalised: Tensor = self.after(x)
        return normalised.flatten(1)


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "mlp": (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 3)), (6,)),
    "convolutions": (
        nn.Sequential(
            InputNormalization([0.5], [0.2]), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3),
            nn.BatchNorm2d(2, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3),
        ),
        (1, 8, 8),
    ),
    "before the layer": (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.Flatten()), (3, 6, 6)),
    "residual": (Residual(), (4, 6, 6)),
}  # fmt: skip


def probed(name: str) -> tuple[nn.Module, LayerProbe, Tensor]:
    model, shape = NETWORKS[name]
    trained(model)
    x = torch.rand(7, *shape, generator=torch.Generator().manual_seed(1)) * 3
    return model, layer_probe(fold(model, (x[:2],)), model), x


def standardized_outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Each layer's (y - beta) / |gamma| in the unfolded network, by a hook."""
    seen: dict[str, Tensor] = {}

    def watch(name: str, layer: Any) -> None:
        def hook(_: nn.Module, __: Any, y: Tensor) -> None:
            shape = [1, -1, *[1] * (y.dim() - 2)]
            beta, gamma = (0.0, 1.0) if layer.weight is None else (layer.bias.view(shape), layer.weight.view(shape))
            seen[name] = (y - beta) / abs(gamma)

        handles.append(layer.register_forward_hook(hook))

    handles: list[Any] = []
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            watch(name, layer)
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_it_tells_each_rows_moments_of_every_layers_output(name: str) -> None:
    model, probe, x = probed(name)
    expected = standardized_outputs(model, x)
    assert [layer.name for layer in probe.layers] == list(expected)
    assert probe.left_out == {}
    assert probe.module is not None
    moments, start = probe.module(x), 0
    for layer in probe.layers:
        z = expected[layer.name].flatten(2) if expected[layer.name].dim() > 2 else expected[layer.name].unsqueeze(2)
        part = moments[:, :, start : start + len(layer.channels)]
        assert torch.allclose(part[:, 0], z.mean(2), atol=2e-5, rtol=2e-5)
        assert torch.allclose(part[:, 1], (z * z).mean(2), atol=2e-4, rtol=2e-5)
        start += len(layer.channels)
    assert moments.shape == (7, 2, start)


def test_channels_whose_gamma_is_near_zero_are_left_out_and_so_is_a_layer_of_nothing_else() -> None:
    first, second = nn.BatchNorm1d(4), nn.BatchNorm1d(2)
    model = nn.Sequential(nn.Linear(3, 4), first, nn.Sigmoid(), nn.Linear(4, 2), second)
    trained(model)
    with torch.no_grad():
        first.weight[2] = 0
        second.weight.zero_()
    probe = layer_probe(fold(model, (torch.rand(2, 3),)), model)
    assert [(layer.name, layer.channels) for layer in probe.layers] == [("1", (0, 1, 3))]
    assert list(probe.left_out) == ["4"]
    assert "gamma is near 0" in probe.left_out["4"]
    assert probe.module is not None
    assert torch.isfinite(probe.module(torch.rand(5, 3))).all()


def test_a_layer_that_normalises_by_its_own_batch_is_left_out_with_the_reason() -> None:
    model = trained(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)))
    probe = layer_probe(fold(model, (torch.rand(2, 3),)), model)
    assert probe.module is None
    assert "statistics of its own batch" in probe.left_out["1"]

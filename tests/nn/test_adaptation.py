"""adapt_statistics against the rule of Schneider et al. 2020, computed by hand, layer after layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm, adapt_statistics


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4), SyncBatchNorm(4), nn.Dropout()
    )
    network(torch.randn(64, 2, 5, 5))  # running statistics of its own
    return network.eval()


def statistics(network: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    found = []
    for layer in (network[1], network[5]):
        assert isinstance(layer, nn.BatchNorm2d | SyncBatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        found.append((layer.running_mean.clone(), layer.running_var.clone()))
    return found


@pytest.mark.parametrize("prior", [0.0, 16.0, 1e6])
def test_statistics_are_the_weighted_mean_of_old_and_new_layer_after_layer(prior: float) -> None:
    network, inputs = a_network(), torch.randn(40, 2, 5, 5) * 3 + 1
    own = statistics(network)
    assert adapt_statistics(network, inputs, prior) == ("1", "5")
    adapted = statistics(network)

    weight = prior / (prior + 40)
    reads_first = network[0](inputs).transpose(0, 1).flatten(1)
    reads_second = network[:5](inputs).T  # with the first layer's new statistics
    for (old_mean, old_var), (mean, var), z in zip(own, adapted, (reads_first, reads_second), strict=True):
        assert torch.allclose(mean, weight * old_mean + (1 - weight) * z.mean(1), atol=1e-5)
        assert torch.allclose(var, weight * old_var + (1 - weight) * z.var(1), rtol=1e-4)


def test_nothing_but_the_statistics_changes() -> None:
    network = a_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network[2].train()
    adapt_statistics(network, torch.randn(8, 2, 5, 5), 4)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}
    assert [m.training for m in network] == [False, False, True, False, False, False, False]
    assert not any(m._forward_pre_hooks for m in network.modules())


class Twice(nn.Module):
    """One normalisation for two values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(torch.relu(self.norm(x)))
        return y


@pytest.mark.parametrize(
    ("network", "inputs", "prior", "said"),
    [
        (Twice(), torch.randn(8, 3), 1.0, "'norm' is called twice"),
        (nn.BatchNorm1d(3), torch.full((8, 3), torch.nan), 1.0, "not finite"),
        (nn.BatchNorm1d(3), torch.randn(1, 3), 1.0, "1 inputs"),
        (nn.BatchNorm1d(3), torch.randn(8, 3), -1.0, "prior of -1"),
        (nn.Linear(3, 3), torch.randn(8, 3), 1.0, "no batch normalisation"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_left_as_it_was(
    network: nn.Module, inputs: Tensor, prior: float, said: str
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=said):
        adapt_statistics(network, inputs, prior)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

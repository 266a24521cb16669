"""A user's own network: built where its package is allowed, refused everywhere else before anything is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from batchyard import models
from batchyard.models import ModelError, Plan
from batchyard.nn import SyncBatchNorm, fold
from batchyard.training.spec import ModelSpec, SpecError, python_architecture

PLAN = Plan(image_shape=(1, 8, 8), classes=10)
NETWORKS = """
import torch
from torch import nn
from batchyard.nn import SyncBatchNorm

def small(plan):
    pixels = plan.image_shape[1] * plan.image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), SyncBatchNorm(8), nn.ReLU(), nn.Linear(8, plan.classes))

def broken(plan):
    raise KeyError("width")

def a_list(plan):
    return [nn.Linear(1, 1)]

def weightless(plan):
    return nn.Flatten()

not_callable = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of networks on this process's path, allowed."""
    name = "networks_of_a_user"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(python_architecture.VARIABLE, f"another,{name}")
    for module in (name, f"{name}.networks"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return name


def test_an_allowed_factory_is_given_the_plan_and_its_network_used(package: str) -> None:
    network = models.build(f"python:{package}.networks:small", PLAN, seed=0)
    assert network(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert any(isinstance(module, SyncBatchNorm) for module in network.modules())


def test_its_layers_fold(package: str) -> None:
    network = models.build(f"python:{package}.networks:small", PLAN, seed=0).eval()
    assert [entry.status for entry in fold(network, (torch.rand(2, 1, 8, 8),)).report] == ["folded"]


def test_its_initial_weights_depend_on_the_seed_alone(package: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(int(torch.randint(1000, ()).item()))
        network = models.build(f"python:{package}.networks:small", PLAN, seed=seed)
        return next(layer.weight for layer in network.modules() if isinstance(layer, nn.Linear))

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_package_that_is_not_allowed_is_not_imported(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(python_architecture.VARIABLE, "network,another")
    with pytest.raises(ModelError, match=f"start the service with --allow-python {package}"):
        models.build(f"python:{package}.networks:small", PLAN, seed=0)
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("networks:broken", "networks:broken raised KeyError: 'width'"),
        ("networks:a_list", "returned list; expected a torch.nn.Module"),
        ("networks:weightless", "no parameter to train"),
        ("networks:not_callable", "nothing to call named 'not_callable'"),
        ("networks:missing", "nothing to call named 'missing'"),
        ("elsewhere:small", "elsewhere cannot be imported on this worker: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(package: str, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.build(f"python:{package}.{factory}", PLAN, seed=0)


@pytest.mark.parametrize(
    "architecture",
    ["python:", "python:os", "python:os:", "python::system", "python:a b:c", "python:a.:c", "python:a:b:c"],
)
def test_a_malformed_name_is_no_legal_spec(architecture: str) -> None:
    with pytest.raises(SpecError, match=r"expected python:package\.module:factory"):
        ModelSpec(architecture=architecture)


@pytest.mark.parametrize(
    ("allowed", "is_refused"),
    [
        ("a", False),
        ("a.b", False),
        ("a.b.c", False),
        ("a.b.c.d", True),
        ("b", True),
        ("", True),
        ("a.", True),
        ("A", True),
    ],
)
def test_a_package_allows_the_modules_below_it_and_no_others(allowed: str, is_refused: bool) -> None:
    assert (python_architecture.refusal("python:a.b.c:d", [allowed]) is not None) == is_refused


def test_other_architectures_need_no_permission() -> None:
    assert python_architecture.refusal("mlp", []) is None

"""convert_sync_batchnorm: every BN replaced, nothing else changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from batchyard.nn import SyncBatchNorm, convert_sync_batchnorm


def test_parameters_buffers_and_modes_are_taken_over() -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=None), nn.ModuleDict())
    model[2]["deep"] = nn.BatchNorm1d(4, affine=False, track_running_stats=False)
    model[1].eval()
    before, parameters = dict(model.state_dict()), list(model.parameters())
    converted: Any = convert_sync_batchnorm(model)
    assert converted is model
    assert [type(m) for m in (model[1], model[2]["deep"])] == [SyncBatchNorm, SyncBatchNorm]
    assert (model[1].eps, model[1].momentum, model[1].training) == (1e-3, None, False)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(before)
    assert model[2]["deep"].running_mean is None


def test_a_shared_normalisation_stays_shared() -> None:
    shared = nn.BatchNorm1d(3)
    model: Any = nn.Sequential(shared, nn.ReLU(), shared)
    convert_sync_batchnorm(model)
    assert model[0] is model[2]
    assert isinstance(model[0], SyncBatchNorm)


def test_a_normalisation_itself_is_replaced_and_torchs_synchronised_one_too() -> None:
    assert type(convert_sync_batchnorm(nn.BatchNorm3d(3))) is SyncBatchNorm
    assert type(convert_sync_batchnorm(nn.SyncBatchNorm(3))) is SyncBatchNorm


def test_what_is_not_plain_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return super().forward(input).relu()

    with pytest.raises(TypeError, match="cannot convert Own"):
        convert_sync_batchnorm(nn.Sequential(Own(3)))
    with pytest.raises(TypeError, match="lazy"):
        convert_sync_batchnorm(nn.LazyBatchNorm2d())

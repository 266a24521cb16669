"""The fold zoo: what its table says is what fold and certify said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import fold_zoo


def test_a_network_of_this_library_is_folded_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zoo.json"
    fold_zoo.main(["--only", "lenet", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["name"] == "batchyard lenet"
    assert (row["batch_norms"], row["folded"], row["affine"], row["refused"]) == (4, 4, 0, 0)
    assert row["not_certified"] == []
    assert row["holds"]
    assert "certified" in capsys.readouterr().out


def test_layers_that_stay_are_counted_by_reason() -> None:
    torch.manual_seed(0)
    norms = [nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()]
    line = fold_zoo.measure("two", nn.Sequential(*norms, nn.Flatten(), nn.Linear(48, 4)), torch.randn(4, 3, 4, 4))
    assert line.statuses == {"affine": 2}
    assert list(line.why.values()) == [2]


def test_a_library_that_is_not_installed_is_left_out_by_name() -> None:
    with pytest.raises(ImportError, match="no_such_library"):
        fold_zoo.built("no_such_library", "any")

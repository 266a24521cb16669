"""The proof on a small scale: shift is found in corrupted pictures, and recalibration undoes what can be undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from batchyard import data
from bench import shift_table
from bench.corruptions import CORRUPTIONS, blur, fog


def test_shift_is_detected_and_accuracy_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(shift_table, "SAMPLED", 120)
    monkeypatch.setattr(shift_table, "CORRUPTIONS", {"fog": fog})
    lines = shift_table.measure("mlp", data.load("digits", []), [], 150, tmp_path)
    clean, fogged = lines
    assert clean.accuracy > 0.9
    assert clean.shift < 0.03
    assert fogged.shift > 0.3
    assert fogged.shift_after < 0.05
    assert fogged.accuracy < 0.8
    assert fogged.accuracy_after > clean.accuracy - 0.08
    assert all(row.holds for row in shift_table.rows(lines))
    assert shift_table.table(lines).count("\n") == len(lines)


def test_corruptions_keep_shape_and_range() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 1, 8, 8)).astype(np.float32)
    for name, corrupt in CORRUPTIONS.items():
        made = corrupt(pixels)
        assert made.shape == pixels.shape
        assert made.dtype == np.float32
        assert -1e-3 <= made.min() <= made.max() <= 255 + 1e-3, name
        assert not np.allclose(made, pixels)


def test_blur_spreads_a_point_evenly_and_keeps_its_light() -> None:
    point = np.zeros((1, 1, 21, 21), np.float32)
    point[0, 0, 10, 10] = 100
    spread = blur(point, 1.5)
    assert spread.sum() == pytest.approx(100, rel=1e-3)
    assert np.allclose(spread, spread[:, :, ::-1], atol=1e-5)
    assert np.allclose(spread, spread.transpose(0, 1, 3, 2), atol=1e-5)

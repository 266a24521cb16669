"""Corruptions of pixels, 0 to 255, to measure shift and recalibration with; after ImageNet-C (arXiv 1903.12261)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
"""[n, channels, height, width], 0 to 255."""


def contrast(pixels: Pixels, share: float = 0.2) -> Pixels:
    """Each picture's values pulled towards their mean, to `share` of their distance."""
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(mean + share * (pixels - mean), np.float32)


def fog(pixels: Pixels, share: float = 0.5) -> Pixels:
    """A grey veil: `share` of the light is white."""
    return np.asarray((1 - share) * pixels + share * 255, np.float32)


def noise(pixels: Pixels, deviation: float = 80.0, seed: int = 0) -> Pixels:
    """Gaussian noise, cut to 0 to 255."""
    drawn = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return np.asarray(np.clip(pixels + drawn, 0, 255), np.float32)


def blur(pixels: Pixels, deviation: float = 2.0) -> Pixels:
    """A Gaussian blur, `deviation` in pixels; beyond the border it is black."""
    size = pixels.shape[-1]
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    weights = np.exp(-(distance**2) / (2 * deviation**2)) / (deviation * np.sqrt(2 * np.pi))
    return np.asarray(np.einsum("ij,ncjk,lk->ncil", weights, pixels, weights), np.float32)


CORRUPTIONS: dict[str, Callable[[Pixels], Pixels]] = {"contrast": contrast, "fog": fog, "noise": noise, "blur": blur}

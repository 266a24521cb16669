from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from batchyard.data import Options
from batchyard.data.mnist import FILES

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def encode() -> Callable[[NDArray[np.uint8]], bytes]:
    return idx


@pytest.fixture
def small_mnist(tmp_path: Path) -> Path:
    """A folder with the four files: 50 training and 20 test images of 5x4 pixels, of random content."""
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for (images, labels), samples in zip((FILES[:2], FILES[2:]), (50, 20), strict=True):
        (folder / images).write_bytes(idx(random.integers(0, 256, (samples, 5, 4)).astype(np.uint8)))
        (folder / labels).write_bytes(idx((np.arange(samples) % 10).astype(np.uint8)))
    return folder


@pytest.fixture
def compress() -> Callable[[Path], None]:
    def compress(path: Path) -> None:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    return compress


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A cache of the test's own, and no network."""
    return Options(folder=tmp_path / "cache", fetch=False)


@pytest.fixture
def png() -> Callable[..., bytes]:
    """An image file of random content."""

    def png(seed: int, size: tuple[int, int] = (6, 5), mode: str = "RGB", kind: str = "PNG") -> bytes:
        width, height = size
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(content, kind)
        return content.getvalue()

    return png

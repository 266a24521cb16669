"""Pictures from files, made to fit a model's input; every change made on the way is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from batchyard.cli.failures import USAGE, Failure

_READ = "Give a PNG (or another picture), or an NPY file of pixels from 0 to 255."
_PIXELS_MOST = 50_000_000
"""A picture of more pixels is refused rather than unpacked."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a file held, ready to send."""

    pixels: NDArray[Any]
    """[N, C, H, W], uint8 or float32, 0 to 255."""
    notes: tuple[str, ...]
    """What was done to make it fit, and what looks odd."""


def load(path: Path, shape: tuple[int, ...], *, invert: bool) -> Pictures:
    """The pictures in `path` for a model whose input has `shape` [-1, C, H, W]. Raises Failure."""
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise Failure(f"the model's input {list(shape)} is not a picture", "Use the Python client's infer().", USAGE)
    notes: list[str] = []
    pixels = _read_npy(path, shape, notes) if path.suffix.lower() == ".npy" else _read_picture(path, shape, notes)
    if invert:
        pixels = (255 - pixels).astype(pixels.dtype)
        notes.append("light and dark exchanged, as --invert asks")
    elif pixels.mean() > 127 and shape[1] == 1:
        notes.append("mostly light; the digits of mnist and digits are light on dark: --invert exchanges them")
    return Pictures(pixels, tuple(notes))


def _read_picture(path: Path, shape: tuple[int, ...], notes: list[str]) -> NDArray[Any]:
    _, channels, height, width = shape
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _PIXELS_MOST:
                raise Failure(f"{path}: {picture.width} x {picture.height} is too large", "Make it smaller.", USAGE)
            fitted = _with_channels(picture, channels, notes)
    except FileNotFoundError:
        raise Failure(f"{path}: no such file", _READ, USAGE) from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Failure(f"{path}: not a readable picture: {error}", _READ, USAGE) from None
    if fitted.size != (width, height):
        notes.append(f"resized from {fitted.width} x {fitted.height} to {width} x {height}")
        fitted = fitted.resize((width, height), _filter(fitted.size, (width, height)))
    return np.asarray(fitted, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)[np.newaxis]


def _with_channels(picture: Image.Image, channels: int, notes: list[str]) -> Image.Image:
    """The picture in grey or colour, 8 bits a channel."""
    wanted, name = ("L", "grey") if channels == 1 else ("RGB", "colour")
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        most = 65535 if picture.mode.startswith("I") else max(1.0, float(values.max()))
        notes.append(f"brought from 0..{most:g} to 0..255")
        picture = Image.fromarray(np.clip(values * 255 / most, 0, 255).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        notes.append("transparent parts made black")
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture).convert("RGB")
    if picture.mode != wanted:
        grey = picture.mode in ("1", "L")
        if wanted == "RGB" or not (grey or _is_grey(picture)):
            notes.append(f"made {name} from {picture.mode}")
        return picture.convert(wanted)
    return picture.copy()


def _is_grey(picture: Image.Image) -> bool:
    colours = np.asarray(picture.convert("RGB"))
    return bool((colours == colours[..., :1]).all())


def _filter(before: tuple[int, int], after: tuple[int, int]) -> Image.Resampling:
    """Averaging where a picture shrinks, interpolation where it grows."""
    shrinks = before[0] >= after[0] and before[1] >= after[1]
    return Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR


def _read_npy(path: Path, shape: tuple[int, ...], notes: list[str]) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise Failure(f"{path}: no such file", _READ, USAGE) from None
    except (OSError, ValueError, EOFError) as error:
        raise Failure(f"{path}: not a readable NPY file: {error}", _READ, USAGE) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif" or array.size == 0:
        given = f"{array.dtype} of shape {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise Failure(f"{path}: {given} given; expected an array of numbers", _READ, USAGE)
    return _fit(_as_batch(array, shape, path), shape, path, notes)


def _as_batch(array: NDArray[Any], shape: tuple[int, ...], path: Path) -> NDArray[Any]:
    """[N, C, H, W] from [H, W], [C, H, W], [N, H, W] for one channel, or itself."""
    channels = shape[1]
    if array.ndim == 2 and channels == 1:
        return array[np.newaxis, np.newaxis]
    if array.ndim == 3 and channels == 1 and array.shape[0] != 1:
        return array[:, np.newaxis]
    if array.ndim == 3 and array.shape[0] == channels:
        return array[np.newaxis]
    if array.ndim == 4 and array.shape[1] == channels:
        return array
    raise Failure(
        f"{path}: shape {list(array.shape)} given; expected [N, {channels}, height, width]",
        "Reshape the array, or leave out N (and a single channel).",
        USAGE,
    )


def _fit(batch: NDArray[Any], shape: tuple[int, ...], path: Path, notes: list[str]) -> NDArray[Any]:
    """Checks the range of the values, and resizes where the size is not the model's."""
    low, high = float(batch.min()), float(batch.max())
    if not (low >= 0 and high <= 255):
        raise Failure(f"{path}: values from {low:g} to {high:g}; expected 0 to 255", "Give raw pixels.", USAGE)
    if batch.dtype.kind == "f" and high <= 1.0:
        notes.append("all values lie in 0..1, sent as they are; the model expects raw pixels, 0 to 255")
    batch = batch.astype(np.uint8 if batch.dtype.kind in "ui" else np.float32)
    height, width = shape[2:]
    before = (batch.shape[3], batch.shape[2])
    if before == (width, height):
        return batch
    notes.append(f"resized from {before[0]} x {before[1]} to {width} x {height}")
    resample = _filter(before, (width, height))
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), resample))
        for plane in batch.reshape(-1, *batch.shape[2:])
    ]
    return np.stack(planes).reshape(batch.shape[0], shape[1], height, width)

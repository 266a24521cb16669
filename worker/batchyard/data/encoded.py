"""Samples whose images are still encoded (JPEG, PNG, ...), and their decoding, in parallel and in order. Pillow."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from batchyard.data.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
LOOKED_AT = 16
"""Images looked at for whether all are grey."""
GREY = ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes without colour."""


class CorruptImageError(DataError):
    """An image that cannot be decoded; on_error: skip leaves it out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A part of a dataset."""

    names: Sequence[str]
    """Of each sample, for error messages."""
    labels: NDArray[np.int64]
    """[samples]."""
    read: Callable[[int], bytes]
    """A sample's encoded image; thread-safe. Raises DataError."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What every image of a dataset is made into."""

    channels: int
    """1: grey; 3: red, green, blue."""
    height: int
    width: int
    resize: bool
    """Whether images are scaled and cropped to that size; else they must have it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


def form_of(encoded: Encoded, image_size: int | None) -> Form:
    """One channel where a few images spread over `encoded` are all grey, else three; the size of the first that can be
    decoded, unless `image_size` is given. Raises DataError where none of these can be decoded.
    """
    looked_at = np.unique(np.linspace(0, len(encoded) - 1, LOOKED_AT).astype(int))
    opened = [image for index in looked_at if (image := _try_open(encoded, int(index)))]
    if not opened:
        decode(encoded.read(0), encoded.names[0], Form(channels=3, height=1, width=1, resize=True))  # says why
    channels = 1 if all(image.mode in GREY for image in opened) else 3
    width, height = (image_size, image_size) if image_size else opened[0].size
    return Form(channels=channels, height=height, width=width, resize=image_size is not None)


def decode(content: bytes, where: str, form: Form) -> NDArray[np.uint8]:
    """The image as [channels, height, width].

    With form.resize it is scaled so that the shorter side fits, and the middle is kept. Raises CorruptImageError, or
    DataError when it is of another size. `where` names the image in them.
    """
    image = _open(content, where)
    try:
        pixels = _pixels(image, form)
    except Exception as error:  # Pillow's decoders raise all kinds: OSError, SyntaxError, struct.error
        raise _corrupt(where, error) from error
    if pixels.shape[:2] != (form.height, form.width):
        cause = f"{where} is {pixels.shape[1]}x{pixels.shape[0]} pixels; the first image is {form.width}x{form.height}"
        raise DataError(cause, "set data.image_size to have all images scaled and cropped to one size")
    return np.ascontiguousarray(pixels[:, :, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).reshape(
        form.shape
    )


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """function(item) for each of `items`, in their order, with at most `ahead` of them under way or waiting."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _try_open(encoded: Encoded, index: int) -> Image.Image | None:
    try:
        image = _open(encoded.read(index), encoded.names[index])
        return _upright(image)
    except Exception:  # as in decode: whoever decodes it for good says what is wrong with it
        return None


def _open(content: bytes, where: str) -> Image.Image:
    """The image, its pixels not yet read."""
    try:
        return Image.open(io.BytesIO(content))
    except Exception as error:  # as in decode
        raise _corrupt(where, error if content else EOFError("the file is empty")) from error


def _pixels(image: Image.Image, form: Form) -> NDArray[np.uint8]:
    if form.resize:
        image.draft("RGB" if form.channels == 3 else "L", (form.width, form.height))  # JPEG: decode at a fraction
    image = _upright(image)
    if image.mode.startswith("I;16"):  # Pillow would cut these off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    mode = "L" if form.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if form.resize and image.size != (form.width, form.height):
        image = ImageOps.fit(image, (form.width, form.height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _upright(image: Image.Image) -> Image.Image:
    """The image, its pixels read, turned the way the camera was held."""
    image.load()
    return ImageOps.exif_transpose(image) if image.info.get("exif") else image


def _corrupt(where: str, error: Exception) -> CorruptImageError:
    reason = "not an image in a format known" if "cannot identify" in str(error) else str(error)
    return CorruptImageError(
        f"{where} cannot be decoded: {reason}", "replace or remove it, or set data.on_error: skip to leave such out"
    )

"""Random changes to training images, as batched tensor operations on the device that holds them.

What happens to an image is a function of (seed, step, place in the global batch) alone, drawn from the same
counter-based generator as the order, and is computed from whole numbers or one image's own pixels: any number of
workers makes the same images, bit for bit. Each worker draws only what its own part of the batch needs, on the host,
which takes microseconds and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from batchyard.data.errors import DataError
from batchyard.data.order import AUGMENTING, words

DRAWS = 8
"""Numbers drawn for each image; a multiple of 4."""
GREY = (0.299, 0.587, 0.114)
"""Of red, green and blue, in a grey of the same brightness (ITU-R BT.601)."""
WHITE = 255.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which changes are made; each is off at its default."""

    flip: bool = False
    """Mirror half of the images left to right."""
    crop: int = 0
    """Shift by up to this many pixels each way; what comes in at the edges is the image mirrored there."""
    cutout: int = 0
    """Side of a square, its middle anywhere in the image, that is made the mean colour (arXiv 1708.04552)."""
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation, in this order, change by factors within 1 -/+ this."""

    def __bool__(self) -> bool:
        return self != Policy()


def uniform(seed: int, step: int, part: range) -> NDArray[np.float64]:
    """Numbers in [0, 1) for the places `part` of the global batch of `step`: [places, DRAWS]."""
    drawn = words(seed, AUGMENTING, step, len(part) * DRAWS, part.start * DRAWS)
    return (drawn >> np.uint64(11)).astype(np.float64).reshape(-1, DRAWS) * 2.0**-53


class Augmentation:
    """Changes images of one dataset. Raises DataError for a crop that the images are too small for."""

    def __init__(self, policy: Policy, seed: int, image_shape: tuple[int, int, int], mean: Sequence[float]) -> None:
        self._policy, self._seed = policy, seed
        _, self._height, self._width = image_shape
        self._mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1) * WHITE
        if policy.crop >= min(self._height, self._width):
            cause = f"data.augment.crop: {policy.crop} given; the images are {self._width}x{self._height} pixels"
            raise DataError(cause, f"lower it to {min(self._height, self._width) - 1} or less")

    def __call__(self, images: torch.Tensor, step: int, part: range) -> torch.Tensor:
        """The changed images.

        Args:
            images: [n, channels, height, width], fp32, 0 to 255.
            step: of the global batch, counted from 1.
            part: the places of these n images in it.
        """
        device = images.device
        drawn = torch.from_numpy(uniform(self._seed, step, part)).to(device, non_blocking=True)
        flip, down, right, row, column, brightness, contrast, saturation = drawn.unbind(1)
        policy = self._policy
        if policy.flip or policy.crop:
            images = self._moved(images, flip if policy.flip else None, down, right)
        if policy.colour_jitter:
            factors = [1 + (2 * each - 1) * policy.colour_jitter for each in (brightness, contrast, saturation)]
            images = _jittered(images, *(factor.float().view(-1, 1, 1, 1) for factor in factors))
        if policy.cutout:
            images = torch.where(self._hole(row, column), self._mean.to(device), images)
        return images

    def _moved(
        self, images: torch.Tensor, flip: torch.Tensor | None, down: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """Shifted, then mirrored: each pixel is looked up where it comes from."""
        height, width, most = self._height, self._width, self._policy.crop
        y = torch.arange(height, device=images.device) + _whole(down, 2 * most + 1) - most
        x = torch.arange(width, device=images.device).expand(len(images), width)
        if flip is not None:
            x = torch.where(flip.unsqueeze(1) < 0.5, width - 1 - x, x)
        x = x + _whole(right, 2 * most + 1) - most
        source = _reflected(y, height).unsqueeze(2) * width + _reflected(x, width).unsqueeze(1)
        index = source.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, index).view_as(images)

    def _hole(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Where the square is: [n, 1, height, width]."""
        side = self._policy.cutout
        inside = []
        for middle, length in ((row, self._height), (column, self._width)):
            first = _whole(middle, length) - side // 2
            place = torch.arange(length, device=row.device)
            inside.append((place >= first) & (place < first + side))
        return (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)


def _whole(drawn: torch.Tensor, options: int) -> torch.Tensor:
    """A whole number from 0 to options-1 from each number in [0, 1): [n, 1]."""
    return (drawn * options).long().unsqueeze(1)


def _reflected(place: torch.Tensor, length: int) -> torch.Tensor:
    """Places outside [0, length) mirrored at the edge pixels, which are not repeated."""
    return length - 1 - (length - 1 - place.abs()).abs()


def _jittered(
    images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor
) -> torch.Tensor:
    """Images [n, channels, h, w] by factors [n, 1, 1, 1]: times brightness; away from their mean grey by contrast; away
    from each pixel's own grey by saturation. Kept within 0 to 255.
    """
    # Sums of whole numbers in fp64 are exact in any order, so that a batch's size does not change an image.
    mean = images.mean((2, 3), dtype=torch.float64).float().unsqueeze(2).unsqueeze(3)
    middle = _grey(mean) * brightness
    images = (images * brightness).clamp(0, WHITE)
    images = ((images - middle) * contrast + middle).clamp(0, WHITE)
    if images.shape[1] != len(GREY):
        return images
    grey = _grey(images)
    return ((images - grey) * saturation + grey).clamp(0, WHITE)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """[n, 1, h, w]."""
    if images.shape[1] != len(GREY):
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2]).unsqueeze(1)

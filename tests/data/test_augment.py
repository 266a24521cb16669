"""Augmentation: against a slow obvious version, the same for any number of workers, and fair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batchyard.data import DataError, Dataset, Order, Split
from batchyard.data.augment import Augmentation, Policy, uniform
from batchyard.training.batches import Samples, ShardedBatches
from batchyard.training.group import Group

MEAN = (0.5, 0.25, 0.75)
ALL = Policy(flip=True, crop=2, cutout=3, colour_jitter=0.4)
POLICIES = {
    "flip": Policy(flip=True),
    "crop": Policy(crop=3),
    "cutout": Policy(cutout=4),
    "colour": Policy(colour_jitter=0.3),
    "all": ALL,
}


def images(count: int, channels: int = 3, height: int = 7, width: int = 9, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, channels, height, width))
    return torch.tensor(pixels).float()


def obvious(image: NDArray[np.float64], policy: Policy, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """One image [channels, height, width], pixel by pixel."""
    channels, height, width = image.shape
    flip, down, right, row, column, *factors = drawn
    if policy.crop:
        padded = np.pad(image, [(0, 0)] + [(policy.crop, policy.crop)] * 2, mode="reflect")
        top, left = int(down * (2 * policy.crop + 1)), int(right * (2 * policy.crop + 1))
        image = padded[:, top : top + height, left : left + width]
    if policy.flip and flip < 0.5:
        image = image[:, :, ::-1]
    if policy.colour_jitter:
        brightness, contrast, saturation = (1 + (2 * f - 1) * policy.colour_jitter for f in factors)
        weights = [0.299, 0.587, 0.114] if channels == 3 else [1.0]
        middle = np.tensordot(weights, image, 1).mean() * brightness
        image = np.clip(image * brightness, 0, 255)
        image = np.clip((image - middle) * contrast + middle, 0, 255)
        if channels == 3:
            grey = np.tensordot(weights, image, 1)
            image = np.clip((image - grey) * saturation + grey, 0, 255)
    if policy.cutout:
        image = image.copy()
        for y in range(height):
            for x in range(width):
                first_y, first_x = int(row * height) - policy.cutout // 2, int(column * width) - policy.cutout // 2
                if first_y <= y < first_y + policy.cutout and first_x <= x < first_x + policy.cutout:
                    image[:, y, x] = np.array(MEAN[:channels]) * 255
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_change_is_that_of_the_obvious_version(policy: str, channels: int) -> None:
    before, chosen = images(40, channels), POLICIES[policy]
    augmentation = Augmentation(chosen, 5, (channels, 7, 9), MEAN[:channels])
    after = augmentation(before, 11, range(40)).numpy()
    drawn = uniform(5, 11, range(40))
    pairs = zip(before.double().numpy(), drawn, strict=True)
    expected = np.stack([obvious(image, chosen, row) for image, row in pairs])
    exact = not chosen.colour_jitter
    np.testing.assert_allclose(after, expected, rtol=0, atol=0 if exact else 1e-3)
    assert not np.array_equal(after, before.numpy())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_workers_and_micro_batches_make_the_same_images_bit_for_bit(parts: int, policy: str) -> None:
    pixels = images(50, seed=4).to(torch.uint8).numpy()
    split = Split(images=pixels, labels=np.arange(50) % 5)
    order = Order(seed=3, samples=50, batch_size=14)
    augmentation = Augmentation(POLICIES[policy], 3, (3, 7, 9), MEAN)

    def batches(rank: int, world_size: int, micro: int) -> ShardedBatches:
        group = Group(rank=rank, world_size=world_size, device=torch.device("cpu"))
        return ShardedBatches(Samples(split, group.device), order, group, micro, augmentation)

    for step in (1, 4, 77):  # 77: of a later epoch
        whole = batches(0, 1, 1).shard(step)
        shards = [batches(rank, parts, 1).shard(step) for rank in range(parts)]
        micro = list(batches(0, 1, parts).micro_batches(step))
        for pieces in (shards, micro):
            for of_pieces, of_whole in zip(zip(*pieces, strict=True), whole, strict=True):
                assert torch.equal(torch.cat(of_pieces), of_whole)


def test_another_step_seed_or_place_draws_other_numbers() -> None:
    base = uniform(1, 1, range(4))
    others = [uniform(1, 2, range(4)), uniform(2, 1, range(4)), uniform(1, 1, range(4, 8))]
    assert len(np.unique(np.concatenate([base, *others]))) == 4 * base.size


def test_numbers_are_spread_evenly() -> None:
    drawn = uniform(9, 3, range(20_000))
    counts = np.stack([np.histogram(column, bins=10, range=(0, 1))[0] for column in drawn.T])
    assert np.abs(counts - 2000).max() < 215  # five standard deviations of a binomial count
    correlations = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlations).max() < 0.036  # five standard deviations


def test_half_of_the_images_are_flipped_and_every_shift_is_as_likely() -> None:
    row = torch.arange(9.0).expand(10_000, 1, 7, 9)
    flipped = Augmentation(Policy(flip=True), 1, (1, 7, 9), (0.5,))(row, 1, range(10_000))
    assert abs(int((flipped[:, 0, 0, 0] == 8).sum()) - 5000) < 250
    shifted = Augmentation(Policy(crop=2), 1, (1, 7, 9), (0.5,))(row, 1, range(10_000))
    counts = torch.bincount(shifted[:, 0, 0, 4].long(), minlength=9)  # where the middle column comes from
    assert counts[:2].sum() == counts[7:].sum() == 0
    assert (counts[2:7] - 2000).abs().max() < 200


def test_a_crop_that_the_images_are_too_small_for_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.augment.crop: 7 given; the images are 9x7 pixels; lower it to 6"):
        Augmentation(Policy(crop=7), 0, (3, 7, 9), MEAN)


def test_nothing_asked_for_is_nothing_done() -> None:
    assert not Policy()
    assert all(POLICIES.values())


def test_an_augmented_dataset_is_left_as_it_was() -> None:
    pixels = images(20).to(torch.uint8).numpy()
    split = Split(images=pixels, labels=np.arange(20) % 2)
    before = Dataset(name="x", train=split, test=split, classes=("a", "b")).sha256
    group = Group(rank=0, world_size=1, device=torch.device("cpu"))
    augmentation = Augmentation(ALL, 3, (3, 7, 9), MEAN)
    order = Order(seed=1, samples=20, batch_size=20)
    ShardedBatches(Samples(split, group.device), order, group, 1, augmentation).shard(1)
    assert Dataset(name="x", train=split, test=split, classes=("a", "b")).sha256 == before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_gpu_makes_the_images_that_a_cpu_makes(policy: str) -> None:
    before, chosen = images(40), POLICIES[policy]
    augmentation = Augmentation(chosen, 5, (3, 7, 9), MEAN)
    on_gpu, on_cpu = augmentation(before.cuda(), 11, range(40)).cpu(), augmentation(before, 11, range(40))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=1e-3 if chosen.colour_jitter else 0)

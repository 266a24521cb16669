from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from batchyard import data
from batchyard.data.mnist import FILES

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES
Encode = Callable[[NDArray[np.uint8]], bytes]


def test_images_and_labels_are_read_as_they_were_written(small_mnist: Path) -> None:
    dataset = data.load("mnist", [str(small_mnist)])
    assert dataset.train.images.shape == (50, 1, 5, 4)
    assert dataset.image_shape == (1, 5, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 5, 4)).astype(np.uint8)
    assert np.array_equal(dataset.train.images[:, 0], pixels)
    assert dataset.test.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_the_files_are_found_directly_or_in_a_folder_of_their_own(small_mnist: Path, place: str) -> None:
    top = small_mnist.parent / "top"
    (top / place).parent.mkdir(parents=True, exist_ok=True)
    small_mnist.rename(top / place)
    assert len(data.load("mnist", ["/no/such/folder", str(top)]).train) == 50


def test_compressed_and_plain_files_are_the_same_data(small_mnist: Path, compress: Callable[[Path], None]) -> None:
    plain = data.load("mnist", [str(small_mnist)]).sha256
    compress(small_mnist / TRAIN_IMAGES)
    compress(small_mnist / TEST_LABELS)
    assert data.load("mnist", [str(small_mnist)]).sha256 == plain


def test_the_digest_changes_with_a_single_pixel(small_mnist: Path) -> None:
    before = data.load("mnist", [str(small_mnist)]).sha256
    content = bytearray((small_mnist / TEST_IMAGES).read_bytes())
    content[-1] ^= 1
    (small_mnist / TEST_IMAGES).write_bytes(content)
    assert data.load("mnist", [str(small_mnist)]).sha256 != before


def test_mean_and_std_are_those_of_the_training_pixels_scaled_to_one(small_mnist: Path) -> None:
    dataset = data.load("mnist", [str(small_mnist)])
    scaled = dataset.train.images / 255
    assert dataset.mean == pytest.approx((scaled.mean(),), rel=1e-12)
    assert dataset.std == pytest.approx((scaled.std(),), rel=1e-12)


def test_missing_files_are_reported_with_every_folder_looked_in(tmp_path: Path) -> None:
    with pytest.raises(data.DataError) as caught:
        data.load("mnist", [str(tmp_path / "a"), str(tmp_path / "b")])
    for place in ("a", "a/mnist", "b", "b/mnist"):
        assert f"{tmp_path}/{place}," in caught.value.cause + ","
    assert "digits" in caught.value.next_step


def test_no_data_folder_at_all_is_said_plainly() -> None:
    with pytest.raises(data.DataError, match="no folder: none is configured"):
        data.load("mnist", [])


def test_parts_of_two_copies_are_never_mixed(small_mnist: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (small_mnist / TEST_LABELS).rename(other / TEST_LABELS)
    with pytest.raises(data.DataError, match=f"{TEST_LABELS}.*not found in {small_mnist}"):
        data.load("mnist", [str(small_mnist), str(other)])


def test_a_truncated_file_is_named_with_its_sizes(small_mnist: Path) -> None:
    path = small_mnist / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(data.DataError, match=rf"{TRAIN_IMAGES} is truncated: 1009 bytes; expected 1016 for 50 x 5 x 4"):
        data.load("mnist", [str(small_mnist)])


def test_a_file_with_more_than_its_header_says_is_refused(small_mnist: Path) -> None:
    path = small_mnist / TRAIN_LABELS
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(data.DataError, match=f"{TRAIN_LABELS} is longer than its header says"):
        data.load("mnist", [str(small_mnist)])


def test_a_file_that_ends_in_its_header_is_refused(small_mnist: Path) -> None:
    path = small_mnist / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(data.DataError, match="the header alone takes 16"):
        data.load("mnist", [str(small_mnist)])


def test_a_truncated_gzip_stream_is_named(small_mnist: Path, compress: Callable[[Path], None]) -> None:
    compress(small_mnist / TRAIN_IMAGES)
    path = small_mnist / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(data.DataError, match=rf"{TRAIN_IMAGES}\.gz is truncated"):
        data.load("mnist", [str(small_mnist)])


def test_a_damaged_gzip_stream_is_named(small_mnist: Path, compress: Callable[[Path], None]) -> None:
    compress(small_mnist / TRAIN_IMAGES)
    path = small_mnist / f"{TRAIN_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=rf"{TRAIN_IMAGES}\.gz is damaged"):
        data.load("mnist", [str(small_mnist)])


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"\x00\x00\x08\x01\x00\x00\x00\x00"])
def test_a_file_of_another_kind_is_refused_with_both_magics(small_mnist: Path, content: bytes) -> None:
    (small_mnist / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(data.DataError, match=f"{TRAIN_IMAGES}: the file begins with .*; expected 00 00 08 03"):
        data.load("mnist", [str(small_mnist)])


def test_a_label_out_of_range_is_named_with_its_sample(small_mnist: Path, encode: Encode) -> None:
    labels = (np.arange(50) % 10).astype(np.uint8)
    labels[17] = 10
    (small_mnist / TRAIN_LABELS).write_bytes(encode(labels))
    with pytest.raises(data.DataError, match="training part: label 10 of sample 17 is out of range; expected 0 to 9"):
        data.load("mnist", [str(small_mnist)])


def test_different_numbers_of_images_and_labels_are_refused(small_mnist: Path, encode: Encode) -> None:
    (small_mnist / TEST_LABELS).write_bytes(encode(np.zeros(19, np.uint8)))
    with pytest.raises(data.DataError, match="test part: 20 images and 19 labels"):
        data.load("mnist", [str(small_mnist)])


def test_images_of_two_sizes_are_refused(small_mnist: Path, encode: Encode) -> None:
    (small_mnist / TEST_IMAGES).write_bytes(encode(np.zeros((20, 4, 4), np.uint8)))
    with pytest.raises(data.DataError, match="training images are 1x5x4, test images 1x4x4"):
        data.load("mnist", [str(small_mnist)])


def test_an_empty_part_is_refused(small_mnist: Path, encode: Encode) -> None:
    (small_mnist / TEST_IMAGES).write_bytes(encode(np.zeros((0, 5, 4), np.uint8)))
    (small_mnist / TEST_LABELS).write_bytes(encode(np.zeros(0, np.uint8)))
    with pytest.raises(data.DataError, match="test part is empty"):
        data.load("mnist", [str(small_mnist)])


def test_images_without_any_contrast_are_refused(small_mnist: Path, encode: Encode) -> None:
    (small_mnist / TRAIN_IMAGES).write_bytes(encode(np.full((50, 5, 4), 7, np.uint8)))
    with pytest.raises(data.DataError, match="every training pixel of channel 0 has the same value"):
        _ = data.load("mnist", [str(small_mnist)]).std


def test_a_file_that_cannot_be_read_is_named(small_mnist: Path) -> None:
    (small_mnist / TRAIN_IMAGES).unlink()
    (small_mnist / TRAIN_IMAGES).symlink_to("/proc/self/mem")  # a regular file whose first page no one can read
    with pytest.raises(data.DataError, match=f"{TRAIN_IMAGES} cannot be read: Input/output error"):
        data.load("mnist", [str(small_mnist)])

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from batchyard import data
from batchyard.data import DATASETS
from batchyard.training import spec


def sorted_rows(images: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in images)


def test_digits_are_those_of_scikit_learn_with_ink_scaled_to_255() -> None:
    dataset, original = data.load("digits", []), load_digits()
    images = np.concatenate([dataset.train.images, dataset.test.images])
    expected = np.rint(original.images * 255 / 16).astype(np.uint8)
    assert sorted_rows(images) == sorted_rows(expected)
    assert np.array_equal(np.unique(images), np.rint(np.arange(17) * 255 / 16))


def test_each_image_keeps_its_label() -> None:
    dataset, original = data.load("digits", []), load_digits()
    expected = np.rint(original.images * 255 / 16).astype(np.uint8)
    labels = {image.tobytes(): label for image, label in zip(expected, original.target, strict=True)}
    for split in (dataset.train, dataset.test):
        assert [labels[image.tobytes()] for image in split.images] == split.labels.tolist()


def test_one_in_five_is_for_testing_and_every_class_is_in_both_parts() -> None:
    dataset = data.load("digits", [])
    assert (len(dataset.train), len(dataset.test)) == (1438, 359)
    assert np.bincount(dataset.test.labels).min() >= 20
    assert np.bincount(dataset.train.labels).min() >= 100


def test_the_split_never_changes() -> None:
    assert data.load("digits", []).sha256 == "38ee6f27ca5d1451a4273f093a090d4f74d0a4987cf988928dca125c8c757909"


def test_the_registry_has_exactly_the_datasets_of_the_job_spec() -> None:
    assert tuple(DATASETS) == spec.DATASETS


def test_an_unknown_dataset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(data.DataError, match="'cifar' given; expected one of digits, mnist"):
        data.load("cifar", [])


def test_loading_data_imports_neither_torch_nor_scikit_learn() -> None:
    code = "import sys; from batchyard import data; data.load('digits', []); "
    code += "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

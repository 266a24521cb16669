from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batchyard import data
from batchyard.data import DataError, Options
from batchyard.data.cifar import CIFAR10, CIFAR100, CLASSES, Binary

NAMES = {CIFAR10.folder: CLASSES, CIFAR100.folder: tuple(f"thing{i:03}" for i in range(100))}


def rows(samples: int, label_bytes: int, classes: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    labels = (np.arange(samples) % classes).astype(np.uint8)
    columns = [np.full(samples, 19, np.uint8), labels][2 - label_bytes :]
    pixels = random.integers(0, 256, (samples, 3072)).astype(np.uint8)
    return np.concatenate([*(column[:, None] for column in columns), pixels], axis=1).tobytes()


def unpacked(folder: Path, binary: Binary) -> Path:
    """The published binary version, with 20 samples in each file."""
    place = folder / binary.folder
    place.mkdir(parents=True)
    classes = NAMES[binary.folder]
    for seed, name in enumerate((*binary.train, *binary.test)):
        (place / name).write_bytes(rows(20, binary.label_bytes, len(classes), seed))
    (place / binary.names).write_text("\n".join(classes) + "\n\n")
    return place


def packed(place: Path, binary: Binary) -> Path:
    archive = place.parent / binary.archive
    with tarfile.open(archive, "w:gz") as file:
        file.add(place, binary.folder)
    for each in place.iterdir():
        each.unlink()
    place.rmdir()
    return archive


@pytest.mark.parametrize(("name", "binary", "train"), [("cifar10", CIFAR10, 100), ("cifar100", CIFAR100, 20)])
def test_the_published_binary_is_read_packed_and_unpacked(
    name: str, binary: Binary, train: int, tmp_path: Path, options: Options
) -> None:
    place = unpacked(tmp_path / "data", binary)
    first = np.frombuffer((place / binary.train[0]).read_bytes(), np.uint8).reshape(20, -1)
    plain = data.load(name, [str(tmp_path / "data")], options)
    assert (plain.image_shape, len(plain.train), len(plain.test)) == ((3, 32, 32), train, 20)
    assert np.array_equal(plain.train.images[7].reshape(-1), first[7, binary.label_bytes :])
    assert plain.train.labels[:20].tolist() == [i % len(plain.classes) for i in range(20)]
    assert plain.classes == NAMES[binary.folder]
    packed(place, binary)
    assert data.load(name, [str(tmp_path / "data")], options).sha256 == plain.sha256


def test_a_file_cut_short_is_named(tmp_path: Path, options: Options) -> None:
    place = unpacked(tmp_path, CIFAR10)
    (place / "data_batch_3.bin").write_bytes((place / "data_batch_3.bin").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin has 61459 bytes; expected rows of 3073"):
        data.load("cifar10", [str(tmp_path)], options)


def test_a_missing_file_is_named(tmp_path: Path, options: Options) -> None:
    (unpacked(tmp_path, CIFAR10) / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch.bin cannot be read: No such file"):
        data.load("cifar10", [str(tmp_path)], options)


def test_a_damaged_archive_is_named(tmp_path: Path, options: Options) -> None:
    archive = packed(unpacked(tmp_path, CIFAR10), CIFAR10)
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=f"{CIFAR10.archive} is damaged"):
        data.load("cifar10", [str(tmp_path)], options)


def test_an_archive_without_all_files_is_refused(tmp_path: Path, options: Options) -> None:
    place = unpacked(tmp_path, CIFAR100)
    (place / "test.bin").unlink()
    packed(place, CIFAR100)
    with pytest.raises(DataError, match=r"test.bin not found inside"):
        data.load("cifar100", [str(tmp_path)], options)


def images_zip(path: Path, classes: tuple[str, ...] = CLASSES, each: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("train", "test"):
            for name in classes:
                for i in range(each):
                    content = io.BytesIO()
                    pixels = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(content, "PNG")
                    archive.writestr(f"{part}/{name}/{i:04}.png", content.getvalue())


def test_an_archive_of_images_is_cifar10_too_and_is_decoded_once(tmp_path: Path) -> None:
    said: list[str] = []
    options = Options(folder=tmp_path / "cache", log=said.append)
    images_zip(tmp_path / "data" / "cifar10" / "cifar10-jpeg.zip")
    first = data.load("cifar10", [str(tmp_path / "data")], options)
    assert (len(first.train), len(first.test), first.classes) == (30, 30, CLASSES)
    assert said == [f"dataset cifar10: decoding 60 images into {options.folder}"]
    again = data.load("cifar10", [str(tmp_path / "data")], options)
    assert len(said) == 1
    assert (again.sha256, again.mean, again.std) == (first.sha256, first.mean, first.std)
    assert np.array_equal(again.train.images, first.train.images)


def test_images_of_other_classes_are_not_cifar10(tmp_path: Path, options: Options) -> None:
    images_zip(tmp_path / "cifar10.zip", ("cat", "dog"))
    with pytest.raises(DataError, match="has the classes cat, dog; expected airplane, automobile"):
        data.load("cifar10", [str(tmp_path)], options)


def test_a_missing_dataset_says_what_would_do(tmp_path: Path, options: Options) -> None:
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz, .* not found; looked in .*/cifar10"):
        data.load("cifar10", [str(tmp_path)], options)

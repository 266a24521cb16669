"""Image files by URI: folders, zips and tars, whole, split, resized, damaged."""

from __future__ import annotations

import dataclasses
import gzip
import io
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from batchyard import data
from batchyard.data import DataError, Options

Png = Callable[..., bytes]
Files = dict[str, bytes]


@pytest.fixture
def files(png: Png) -> Files:
    """Four training and two test images of two classes."""
    parts = (("train", 2), ("test", 1))
    names = [f"{part}/{label}/{i}.png" for part, n in parts for label in ("cat", "dog") for i in range(n)]
    return {name: png(seed) for seed, name in enumerate(names)}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)


def folder(place: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place.as_uri()


def zipped(place: Path, files: Mapping[str, bytes]) -> str:
    path = place.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.as_uri()


def tarred(place: Path, files: Mapping[str, bytes], pack: Callable[[bytes], bytes] = bytes, suffix: str = "") -> str:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, each in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(each)
            archive.addfile(member, io.BytesIO(each))
    path = place.with_name(f"{place.name}.tar{suffix}")
    path.write_bytes(pack(content.getvalue()))
    return path.as_uri()


def remote(place: Path, files: Mapping[str, bytes]) -> str:
    filesystem = fsspec.filesystem("memory")
    root = f"/{place.parent.name}/{place.name}"
    for name, content in files.items():
        filesystem.pipe(f"{root}/{name}", content)
    return f"memory:/{root}"


def remote_zip(place: Path, files: Mapping[str, bytes]) -> str:
    zipped(place, files)
    filesystem = fsspec.filesystem("memory")
    root = f"/{place.parent.name}/{place.name}.zip"
    filesystem.pipe(root, place.with_suffix(".zip").read_bytes())
    return f"memory:/{root}"


FORMS: dict[str, Callable[[Path, Mapping[str, bytes]], str]] = {
    "folder": folder,
    "zip": zipped,
    "tar": tarred,
    "tar-gz": lambda place, files: tarred(place, files, gzip.compress, ".gz"),
    "tar-xz": lambda place, files: tarred(place, files, lzma.compress, ".xz"),
    "remote-folder": remote,
    "remote-zip": remote_zip,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples(form: str, files: Files, tmp_path: Path, options: Options) -> None:
    dataset = data.load(FORMS[form](tmp_path / "pets", files), [], options)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1]
    expected = [pixels(content) for name, content in sorted(files.items()) if name.startswith("train")]
    assert np.array_equal(dataset.train.images, np.stack(expected))
    assert dataset.image_shape == (3, 5, 6)


@pytest.mark.parametrize("prefix", ["pets/", "a/b/"])
def test_folders_around_it_all_do_not_matter(prefix: str, files: Files, tmp_path: Path, options: Options) -> None:
    plain = data.load(zipped(tmp_path / "plain", files), [], options)
    wrapped = data.load(
        zipped(tmp_path / "w", {prefix + name: content for name, content in files.items()}), [], options
    )
    assert wrapped.sha256 == plain.sha256


def test_other_files_are_left_alone(files: Files, tmp_path: Path, options: Options) -> None:
    plain = data.load(zipped(tmp_path / "plain", files), [], options)
    others = {"README.txt": b"hello", "train/cat/.DS_Store": b"x", "__MACOSX/train/cat/._0.png": b"x"}
    more = data.load(zipped(tmp_path / "more", {**files, **others}), [], options)
    assert more.sha256 == plain.sha256


def test_val_is_a_test_part_too(files: Files, tmp_path: Path, options: Options) -> None:
    renamed = {name.replace("test/", "val/"): content for name, content in files.items()}
    dataset = data.load(folder(tmp_path / "pets", renamed), [], options)
    assert (len(dataset.train), len(dataset.test)) == (4, 2)


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_without_a_test_part_the_same_samples_are_held_out_every_time(
    prefix: str, png: Png, tmp_path: Path, options: Options
) -> None:
    files = {f"{prefix}{label}/{i}.png": png(i) for label in "ab" for i in range(10)}
    quarter = dataclasses.replace(options, test_share=0.25)
    first = data.load(folder(tmp_path / "pets", files), [], quarter)
    assert (len(first.train), len(first.test)) == (15, 5)
    assert data.load(zipped(tmp_path / "other", files), [], quarter).sha256 == first.sha256


def test_images_are_scaled_and_cropped_to_one_size(png: Png, tmp_path: Path, options: Options) -> None:
    wide, tall = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (10, 30), (9, 8, 7))
    wide.paste((1, 2, 3), (10, 0, 30, 20))  # the middle square
    files = {}
    for name, image in (("train/a/0.png", wide), ("train/b/0.png", tall), ("test/a/0.png", wide)):
        content = io.BytesIO()
        image.save(content, "PNG")
        files[name] = content.getvalue()
    dataset = data.load(folder(tmp_path / "d", files), [], dataclasses.replace(options, image_size=8))
    assert dataset.image_shape == (3, 8, 8)
    assert (dataset.train.images[0, :, :, 1:-1] == np.array([1, 2, 3])[:, None, None]).all()  # edges blend
    assert (dataset.train.images[1] == np.array([9, 8, 7])[:, None, None]).all()


def test_images_of_several_sizes_need_an_image_size(files: Files, png: Png, tmp_path: Path, options: Options) -> None:
    files["train/cat/1.png"] = png(0, (7, 5))
    with pytest.raises(DataError, match=r"train/cat/1.png is 7x5 pixels; the first image is 6x5; set data.image_size"):
        data.load(folder(tmp_path / "pets", files), [], options)


def test_grey_images_have_one_channel_unless_some_have_colour(png: Png, tmp_path: Path, options: Options) -> None:
    grey = {f"{part}/a/{i}.png": png(i, mode="L") for part in ("train", "test") for i in range(3)}
    assert data.load(folder(tmp_path / "grey", grey), [], options).image_shape == (1, 5, 6)
    mixed = {**grey, "train/a/2.png": png(9)}
    assert data.load(folder(tmp_path / "mixed", mixed), [], options).image_shape == (3, 5, 6)


def test_pixels_of_16_bits_keep_their_high_byte(tmp_path: Path, options: Options) -> None:
    deep = np.array([[0x0102, 0xFFFF], [0x8000, 0x7F80]], np.uint16)
    content = io.BytesIO()
    Image.fromarray(deep).save(content, "PNG")
    files = {f"{part}/a/0.png": content.getvalue() for part in ("train", "test")}
    dataset = data.load(folder(tmp_path / "d", files), [], options)
    assert dataset.train.images[0, 0].tolist() == [[1, 255], [128, 127]]


def test_a_photo_that_says_how_it_was_held_is_turned_upright(png: Png, tmp_path: Path, options: Options) -> None:
    image = Image.open(io.BytesIO(png(1, (16, 8))))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    content = io.BytesIO()
    image.save(content, "JPEG", exif=exif)
    dataset = data.load(
        folder(tmp_path / "d", {f"{part}/a/0.jpg": content.getvalue() for part in ("train", "test")}), [], options
    )
    assert dataset.image_shape == (3, 16, 8)
    assert np.array_equal(dataset.train.images[0], np.rot90(pixels(content.getvalue()), -1, (1, 2)))


CORRUPT: dict[str, Callable[[bytes], bytes]] = {
    "cut-short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "no-image": lambda content: b"<html>404</html>" * 10,
    "bits-flipped": lambda content: content[:45] + bytes(255 - byte for byte in content[45:]),
}


@pytest.mark.parametrize("damage", CORRUPT)
def test_a_corrupt_image_is_named_with_what_to_do(damage: str, files: Files, tmp_path: Path, options: Options) -> None:
    files["train/dog/0.png"] = CORRUPT[damage](files["train/dog/0.png"])
    with pytest.raises(DataError, match=r"train/dog/0.png cannot be decoded: .*; replace .* data.on_error: skip"):
        data.load(folder(tmp_path / "pets", files), [], options)
    assert not [path for path in (options.folder / "decoded").iterdir() if path.is_dir()]


@pytest.mark.parametrize("damage", CORRUPT)
def test_corrupt_images_are_left_out_and_counted_when_asked_to(
    damage: str, files: Files, tmp_path: Path, options: Options
) -> None:
    said: list[str] = []
    files["train/cat/0.png"] = CORRUPT[damage](files["train/cat/0.png"])  # the very first
    skipping = dataclasses.replace(options, on_error="skip", note=said.append)
    uri = folder(tmp_path / "pets", files)
    for _ in range(2):  # decoded now, and then before
        dataset = data.load(uri, [], skipping)
        assert dataset.train.labels.tolist() == [0, 1, 1]
        assert "1 corrupt image left out" in said[-1]
        assert "train/cat/0.png cannot be decoded" in said[-1]
        assert np.array_equal(dataset.train.images[0], pixels(files["train/cat/1.png"]))


def test_a_part_whose_images_are_all_corrupt_is_refused(files: Files, tmp_path: Path, options: Options) -> None:
    files |= {name: b"no" for name in files if name.startswith("test")}
    with pytest.raises(DataError, match="test part is empty"):
        data.load(folder(tmp_path / "pets", files), [], dataclasses.replace(options, on_error="skip"))


def test_a_changed_file_is_decoded_anew(files: Files, png: Png, tmp_path: Path, options: Options) -> None:
    uri = folder(tmp_path / "pets", files)
    before = data.load(uri, [], options)
    (tmp_path / "pets" / "train" / "cat" / "0.png").write_bytes(png(77) + b"tail")
    after = data.load(uri, [], options)
    assert after.sha256 != before.sha256
    assert np.array_equal(after.train.images[0], pixels(png(77)))


def test_several_workers_decode_once(files: Files, tmp_path: Path, options: Options) -> None:
    said: list[str] = []
    uri = folder(tmp_path / "pets", files)
    logging = dataclasses.replace(options, log=said.append)
    threads = [threading.Thread(target=data.load, args=(uri, [], logging)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.txt"], "no image file inside; expected train/CLASS/IMAGE"),
        (["train/0.png", "train/a/1.png"], "train/0.png is in no class's folder"),
        (["a/0.png", "1.png"], "1.png is in no class's folder"),
        (["train/a/0.png", "test/b/0.png"], "classes that the training part lacks: b"),
        (["a/0.png"], "1 samples; expected 2 or more to split"),
    ],
    ids=["no-image", "loose-in-train", "loose", "unknown-class", "too-few"],
)
def test_a_layout_that_is_none_is_told_what_one_is(
    names: list[str], words: str, png: Png, tmp_path: Path, options: Options
) -> None:
    uri = zipped(tmp_path / "d", {name: png(i) for i, name in enumerate(names)})
    with pytest.raises(DataError, match=words):
        data.load(uri, [], options)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("file:///no/such/place", "file:///no/such/place does not exist"),
        ("nosuch://bucket/x", "nosuch://bucket/x cannot be read: Protocol not known: nosuch"),
        ("file:///etc/hostname", "is of no form known; expected a folder, or a file that ends in .zip"),
    ],
    ids=["missing", "protocol", "form"],
)
def test_a_uri_that_leads_nowhere_is_named(uri: str, words: str, options: Options) -> None:
    with pytest.raises(DataError, match=words):
        data.load(uri, [], options)


class Locked(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store whose errors are its own, as botocore's are."""

    protocol = "locked"

    def info(self, path: str, **options: object) -> dict[str, object]:
        class NoCredentialsError(Exception):
            """Neither OSError nor ValueError."""

        raise NoCredentialsError("Unable to locate credentials")

    exists = info


def test_what_a_store_raises_of_its_own_names_the_uri(options: Options) -> None:
    fsspec.register_implementation("locked", Locked, clobber=True)
    with pytest.raises(DataError, match=r"locked://bucket/x cannot be read: Unable to locate credentials"):
        data.load("locked://bucket/x", [], options)


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_an_archive_that_is_none_is_named(ending: str, tmp_path: Path, options: Options) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(b"not an archive" * 100)
    with pytest.raises(DataError, match=f"x{ending} "):
        data.load(path.as_uri(), [], options)


def test_a_cache_that_cannot_be_written_is_named(files: Files, tmp_path: Path, options: Options) -> None:
    (tmp_path / "file").write_text("")
    unusable = dataclasses.replace(options, folder=tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot be used: .* BATCHYARD_CACHE"):
        data.load(folder(tmp_path / "pets", files), [], unusable)

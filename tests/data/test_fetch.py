from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from batchyard import data
from batchyard.data import DataError, Options, cifar, fetch, mnist
from batchyard.data.fetch import Published
from batchyard.data.options import cache_folder
from batchyard.data.places import Search, find


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(small_mnist: Path) -> Iterator[str]:
    """A server of a small MNIST, on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(small_mnist))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def published(url: str, folder: Path) -> dict[str, Published]:
    return {
        name: Published(url=f"{url}/{name}", sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for name in mnist.FILES
    }


def searched(files: dict[str, Published], options: Options) -> list[Path]:
    search = Search(dataset="mnist", places=("", "mnist"), wanted="four files", published=files)
    found, _ = find(search, [], options, lambda place: sorted(place.glob("*-ubyte")) or None)
    return found


def test_what_no_folder_has_is_fetched_once(server: str, small_mnist: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = Options(folder=tmp_path / "cache", fetch=True, log=said.append)
    found = searched(published(server, small_mnist), options)
    assert [path.read_bytes() for path in found] == [(small_mnist / path.name).read_bytes() for path in found]
    assert said == [f"dataset mnist: in no data folder; fetching it into {options.folder}/datasets/mnist"]
    nowhere = {name: Published(url="http://127.0.0.1:9/", sha256="") for name in mnist.FILES}
    assert searched(nowhere, options) == found


def test_what_was_fetched_is_found_by_name(server: str, small_mnist: Path, tmp_path: Path) -> None:
    options = Options(folder=tmp_path / "cache", fetch=True)
    fetch.fetch(published(server, small_mnist), options.folder / "datasets" / "mnist")
    assert data.load("mnist", [], options).sha256 == data.load("mnist", [str(small_mnist)]).sha256


def test_another_digest_is_refused_and_nothing_is_kept(server: str, small_mnist: Path, tmp_path: Path) -> None:
    options = Options(folder=tmp_path / "cache", fetch=True)
    files = published(server, small_mnist)
    files[mnist.FILES[0]] = Published(url=f"{server}/{mnist.FILES[0]}", sha256="0" * 64)
    with pytest.raises(DataError, match=rf"{mnist.FILES[0]}: its content has sha256 [0-9a-f]{{64}}; expected 0000"):
        searched(files, options)
    assert [path.name for path in (options.folder / "datasets" / "mnist").iterdir()] == [".lock"]


def test_a_server_that_has_not_the_file_is_named(server: str, tmp_path: Path) -> None:
    options = Options(folder=tmp_path / "cache", fetch=True)
    expected = f"none is configured; {server}/no cannot be fetched: .*batchyard up --datasets FOLDER"
    with pytest.raises(DataError, match=expected):
        searched({"no": Published(url=f"{server}/no", sha256="")}, options)


def test_several_at_once_fetch_one_file_once(server: str, small_mnist: Path, tmp_path: Path) -> None:
    files = published(server, small_mnist)
    threads = [threading.Thread(target=fetch.fetch, args=(files, tmp_path / "place")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == sorted([".lock", *mnist.FILES])


def test_nothing_is_fetched_where_the_machine_is_told_not_to(tmp_path: Path) -> None:
    assert not Options(folder=tmp_path).fetch  # the tests' own environment says so
    with pytest.raises(DataError, match="not found; looked in no folder"):
        data.load("cifar100", [], Options(folder=tmp_path))


def test_the_cache_folder_is_the_one_named_else_the_users() -> None:
    assert cache_folder({"BATCHYARD_CACHE": "/a/b", "HOME": "/home/me"}) == Path("/a/b")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/batchyard")
    assert cache_folder({"HOME": "/home/me"}) == Path("/home/me/.cache/batchyard")


def test_every_published_file_has_a_digest() -> None:
    tables = (fetch.MNIST, fetch.FASHION_MNIST, fetch.CIFAR10, fetch.CIFAR100)
    files = [file for table in tables for file in table.values()]
    assert len({file.sha256 for file in files}) == len(files) == 10
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in files)
    assert {cifar.CIFAR10.archive, cifar.CIFAR100.archive} == {*fetch.CIFAR10, *fetch.CIFAR100}


def test_fashion_mnist_is_read_from_a_folder_of_its_own_only(small_mnist: Path, tmp_path: Path) -> None:
    options = Options(folder=tmp_path / "cache", fetch=False)
    with pytest.raises(DataError, match=r"fashion_mnist: .* not found"):
        data.load("fashion_mnist", [str(small_mnist)], options)
    small_mnist.rename(tmp_path / "fashion_mnist")
    fashion = data.load("fashion_mnist", [str(tmp_path)], options)
    assert fashion.classes[9] == "ankle-boot"
    assert np.array_equal(fashion.train.labels[:10], np.arange(10))

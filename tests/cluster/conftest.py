"""Both executors behind one fixture."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.cluster.fork_client import ForkServer
from batchyard.cluster.ray_executor import RayExecutor
from tests.cluster.harness import WORKERS, Bench, local_bench, ray_bench

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def importable_entries() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def ray_folder(importable_entries: None) -> Iterator[Path]:
    """One Ray head for most tests: it takes seconds to start."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    RayExecutor(folder, None, WORKERS).close()
    shutil.rmtree(folder)


@pytest.fixture
def shared_ray(ray_folder: Path, tmp_path: Path) -> Iterator[Bench]:
    """The head that most tests use."""
    made = ray_bench(ray_folder, tmp_path / "shared")
    yield made
    made.clear()


@pytest.fixture
def own_ray(tmp_path: Path) -> Iterator[Bench]:
    """A head that the test may break."""
    made = ray_bench(tmp_path / "executor", tmp_path / "notes")
    yield made
    made.executor("succeed").close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Bench]:
    """Plain subprocesses."""
    made = local_bench(tmp_path / "executor", tmp_path / "notes")
    yield made
    made.executor("succeed").close()


@pytest.fixture(scope="session")
def fork_server(importable_entries: None) -> Iterator[ForkServer]:
    """One for most tests: it takes two seconds to load."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def warm_local(fork_server: ForkServer, tmp_path: Path) -> Iterator[Bench]:
    """Plain subprocesses, forked."""
    made = local_bench(tmp_path / "warm", tmp_path / "warm-notes", fork_server)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def warm_ray_folder(importable_entries: None) -> Iterator[Path]:
    """A Ray head with warm workers."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    RayExecutor(folder, None, WORKERS).close()
    shutil.rmtree(folder)


@pytest.fixture
def warm_ray(warm_ray_folder: Path, tmp_path: Path) -> Iterator[Bench]:
    """Ray, with forked workers."""
    made = ray_bench(warm_ray_folder, tmp_path / "warm-ray", warm=True)
    yield made
    made.clear()


@pytest.fixture(params=["warm_local", pytest.param("warm_ray", marks=pytest.mark.ray)])
def warm_bench(request: pytest.FixtureRequest) -> Bench:
    """Either executor, with warm workers."""
    made: Bench = request.getfixturevalue(request.param)
    return made


@pytest.fixture(params=["local", pytest.param("shared_ray", marks=pytest.mark.ray)])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Either executor."""
    made: Bench = request.getfixturevalue(request.param)
    return made

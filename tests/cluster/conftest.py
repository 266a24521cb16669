"""Both executors behind one fixture."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(params=["local", pytest.param("shared_ray", marks=pytest.mark.ray)])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Either executor."""
    made: Bench = request.getfixturevalue(request.param)
    return made

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from tests.control.harness import Service, control_plane


@pytest.fixture
def cluster() -> FakeExecutor:
    """Two workers; its attempts wait to be told what to report."""
    return FakeExecutor(workers=2)


@pytest.fixture
async def service(tmp_path: Path, cluster: FakeExecutor) -> AsyncIterator[Service]:
    async with control_plane(tmp_path / "data", cluster) as running:
        yield running

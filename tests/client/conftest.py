from collections.abc import Iterator

import pytest

from batchyard.client import Client
from batchyard.client.testing import FakeService


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.address, service.address, timeout=20, retry_for=10) as client:
        yield client

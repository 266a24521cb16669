from collections.abc import Iterator

import pytest

from batchyard.client import AsyncClient, Client
from batchyard.client.testing import FakeService

from .stepped import stepped


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as service:
        yield service


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, service: FakeService) -> Iterator[Client]:
    """Both clients in turn, the asynchronous one behind the synchronous one's interface."""
    if request.param == "sync":
        with Client(service.address, service.address, timeout=20, retry_for=10) as client:
            yield client
    else:
        with stepped(lambda: AsyncClient(service.address, service.address, timeout=20, retry_for=10)) as client:
            yield client

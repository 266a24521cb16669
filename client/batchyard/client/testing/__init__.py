"""A service in this process, for tests of programs that use the client: real gRPC on a free port, no training.

with FakeService() as service, Client(service.address, service.address) as client:
job = client.submit({"name": "try", ...})
service.emit(job.name, StateChange(state=TrainingJob.SUCCEEDED))
assert client.wait(job.name).state == TrainingJob.SUCCEEDED
"""

from batchyard.client.testing.details import bad_request
from batchyard.client.testing.service import FakeService

__all__ = ["FakeService", "bad_request"]

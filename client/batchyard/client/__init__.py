"""The Python client of Batchyard: submit and follow training jobs, manage models, ask them. No torch, no Ray.

An example:

    from batchyard.client import Client

    with Client() as client:
        job = client.submit("job.yaml")
        for event in client.watch(job.name):
            print(event.detail)
        print(client.predict("mnist", pixels).labels)

AsyncClient has the same methods, to be awaited. docs/client.md has more.
"""

from batchyard.client.aio import AsyncClient
from batchyard.client.client import Client
from batchyard.client.comparison import Comparison
from batchyard.client.errors import (
    AccessError,
    AlreadyExistsError,
    BatchyardError,
    ConfigurationError,
    DeadlineExceededError,
    FieldViolation,
    InvalidRequestError,
    JobFileError,
    NotFoundError,
    OutOfRangeError,
    OverloadedError,
    PreconditionError,
    RpcError,
    ServiceError,
    TensorError,
    TransferError,
    UnavailableError,
    UnsupportedError,
    WaitTimeoutError,
)
from batchyard.client.events import Detail, Event, state_name
from batchyard.client.job_file import read_job
from batchyard.client.plain import plain
from batchyard.client.predictions import InferResult, Prediction
from batchyard.client.rerun import compare_weights
from batchyard.client.settings import Settings, read_settings
from batchyard.v1.lineage_pb2 import Lineage
from batchyard.v1.models_pb2 import Model, ModelVersion
from batchyard.v1.serving_pb2 import ServingSettings
from batchyard.v1.shadow_pb2 import ShadowComparison
from batchyard.v1.shift_pb2 import ModelShift
from batchyard.v1.spec_pb2 import TrainingJobSpec
from batchyard.v1.training_pb2 import (
    Checkpointed,
    Evaluation,
    LayerStatistics,
    LogLine,
    PhaseChange,
    Resumed,
    StateChange,
    StepMetrics,
    TrainingJob,
    TrainingJobExplanation,
)

__all__ = [
    "AccessError",
    "AlreadyExistsError",
    "AsyncClient",
    "BatchyardError",
    "Checkpointed",
    "Client",
    "Comparison",
    "ConfigurationError",
    "DeadlineExceededError",
    "Detail",
    "Evaluation",
    "Event",
    "FieldViolation",
    "InferResult",
    "InvalidRequestError",
    "JobFileError",
    "LayerStatistics",
    "Lineage",
    "LogLine",
    "Model",
    "ModelShift",
    "ModelVersion",
    "NotFoundError",
    "OutOfRangeError",
    "OverloadedError",
    "PhaseChange",
    "PreconditionError",
    "Prediction",
    "Resumed",
    "RpcError",
    "ServiceError",
    "ServingSettings",
    "Settings",
    "ShadowComparison",
    "StateChange",
    "StepMetrics",
    "TensorError",
    "TrainingJob",
    "TrainingJobExplanation",
    "TrainingJobSpec",
    "TransferError",
    "UnavailableError",
    "UnsupportedError",
    "WaitTimeoutError",
    "compare_weights",
    "plain",
    "read_job",
    "read_settings",
    "state_name",
]

"""What the dashboard shows and asks: everything that its handlers are built from."""

from __future__ import annotations

from dataclasses import dataclass

from batchyard.control.explaining import Explaining
from batchyard.control.inference_calls import InferenceCalls
from batchyard.control.jobs import Jobs
from batchyard.control.metrics import Metrics
from batchyard.control.recalibration import Recalibration
from batchyard.control.registry import Registry
from batchyard.control.traffic.watch import TrafficWatch


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The service's inside, as far as the dashboard goes."""

    jobs: Jobs
    explaining: Explaining
    registry: Registry
    metrics: Metrics
    traffic: TrafficWatch
    inference: InferenceCalls
    recalibration: Recalibration

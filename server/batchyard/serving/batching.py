"""How one model's requests are queued and batched: what its owner asks for, and what this inference plane makes of it.

The words and their meaning are those of Triton's dynamic batching (model_config.proto, ModelDynamicBatching).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

from batchyard.serving.engines.precision import Precision
from batchyard.serving.settings import Limits

TimeoutAction = Literal["REJECT", "DELAY"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What the control plane asks for. None: the inference plane's own. Raises ValueError for what cannot be."""

    max_batch_size: int | None = None
    """Rows that the engine is given at once."""
    max_queue_delay_microseconds: int = 0
    """How long a request may wait for company while the engine is idle."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Sizes that a batch should have where the requests that wait can be put together so."""
    max_queue_rows: int | None = None
    """Rows that may wait."""
    priority_levels: int = 0
    """Levels that the request parameter `priority` chooses from, 1 the highest; 0: the parameter has no effect."""
    default_priority_level: int | None = None
    """Of a request that names none; None: the middle one, the higher of two."""
    default_timeout_microseconds: int = 0
    """How long a request may wait that says nothing of it itself; 0: for ever."""
    allow_timeout_override: bool = True
    """Whether the request parameter `timeout` counts."""
    timeout_action: TimeoutAction = "REJECT"
    """What becomes of a request whose timeout passes while it waits."""
    precision: Precision = "fp32"
    """What the engines may compute in."""
    shadow_share: float = 0.1
    """Share of the requests to the version that serves of which the shadow gets a copy."""

    def __post_init__(self) -> None:
        # The control plane has checked all this; what has been on a disk since is checked once more.
        least = {"max_batch_size": 1, "max_queue_rows": 1, "default_priority_level": 1}
        for name in (*least, "max_queue_delay_microseconds", "priority_levels", "default_timeout_microseconds"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least.get(name, 0)):
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least.get(name, 0)}")
        if not 0 <= self.shadow_share <= 1:
            raise ValueError(f"shadow_share is {self.shadow_share!r}; expected a share, 0 to 1")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}; expected one of {get_args(Precision)}")
        if self.timeout_action not in get_args(TimeoutAction):
            raise ValueError(f"timeout_action is {self.timeout_action!r}; expected one of {get_args(TimeoutAction)}")


@dataclass(frozen=True, kw_only=True)
class BatchPolicy:
    """What one version's batcher does. Times in seconds."""

    max_batch: int
    queue_rows: int
    queue_delay: float = 0.0
    preferred: tuple[int, ...] = ()
    levels: int = 1
    default_level: int = 1
    timeout: float | None = None
    """Of a request that says nothing of it itself."""
    override_timeout: bool = True
    delay_late: bool = False
    """A request whose timeout passes goes to the end of the queue; else it is refused."""


def make_policy(wanted: ModelSettings, limits: Limits, bytes_per_row: int, model: str) -> BatchPolicy:
    """What is asked for, as far as this inference plane's memory allows; says so in the log where it does not."""
    affordable = max(1, limits.queue_bytes // bytes_per_row)
    max_batch = wanted.max_batch_size or limits.max_batch
    if wanted.max_batch_size and max_batch > affordable:
        log.warning("model %s: max_batch_size %d is served as %d: --queue-bytes", model, max_batch, affordable)
        max_batch = affordable
    levels = max(1, wanted.priority_levels)
    return BatchPolicy(
        max_batch=max_batch,
        queue_rows=max(max_batch, min(wanted.max_queue_rows or limits.queue_rows, affordable)),
        queue_delay=wanted.max_queue_delay_microseconds / 1e6,
        preferred=tuple(size for size in wanted.preferred_batch_sizes if size <= max_batch),
        levels=levels,
        default_level=wanted.default_priority_level or (levels + 1) // 2,
        timeout=wanted.default_timeout_microseconds / 1e6 or None,
        override_timeout=wanted.allow_timeout_override,
        delay_late=wanted.timeout_action == "DELAY",
    )

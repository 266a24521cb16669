"""How one inference plane runs, checked once at the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from batchyard.endpoint.security import Security
from batchyard.serving.engines.catalogue import CATALOGUE

Transport = Literal["auto", "native", "grpcio"]
ModelControlMode = Literal["none", "explicit"]


class SettingsError(ValueError):
    """A setting is outside what is possible; the message names it and says what is."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one model version may hold and do at a time. Raises SettingsError."""

    max_batch: int = 128
    """Rows that the engine is given at once."""
    queue_rows: int = 16384
    """Rows that may wait; also the most that one request may have."""
    queue_bytes: int = 512 << 20
    """Bytes of pixels that may wait: bounds memory where rows are large."""

    def __post_init__(self) -> None:
        for name in ("max_batch", "queue_rows", "queue_bytes"):
            if (value := getattr(self, name)) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} {value}: expected at least 1")

    def rows_that_may_wait(self, bytes_per_row: int) -> int:
        """The tighter of the two bounds, in rows; always room for one batch."""
        return max(self.max_batch, min(self.queue_rows, self.queue_bytes // bytes_per_row))


@dataclass(frozen=True, kw_only=True)
class Control:
    """The control plane to follow, and how to reach it."""

    address: str
    """HOST:PORT of its gRPC endpoint."""
    token_file: Path | None = None
    """Holds the bearer token that it asks for."""
    ca: Path | None = None
    """PEM certificates to check it against; None: a plain connection."""

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"--control {self.address}: expected HOST:PORT, for example 127.0.0.1:50051")
        if self.ca is not None and not self.ca.is_file():
            raise SettingsError(f"--control-ca {self.ca}: no such file")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one inference plane runs. Raises SettingsError."""

    control: Control
    cache: Path
    """Folder of this process alone: verified artifacts, and what was last asked to be served."""
    grpc: str = "127.0.0.1:8001"
    """HOST:PORT of the Open Inference Protocol; port 0: any free one."""
    http: str = "127.0.0.1:8002"
    """HOST:PORT of /metrics and /healthz; port 0: any free one."""
    transport: Transport = "auto"
    """auto: pygrpc-native where it is installed and no TLS is asked for, else grpcio."""
    ready_file: Path | None = None
    """Where to write the addresses once everything answers."""
    security: Security = field(default_factory=Security)
    limits: Limits = field(default_factory=Limits)
    engines: tuple[str, ...] = tuple(CATALOGUE)
    """Those that may serve, in bf16 only models whose precision is bf16; of each version the installed ones are
    measured and the fastest serves."""
    shared_memory: str = ""
    """Keys of this machine's shared memory that clients may register, as a shell pattern; empty: none."""
    model_control: ModelControlMode = "none"
    """explicit: clients may load and unload models."""
    trace_dir: Path | None = None
    """Where clients may have traces of requests written; None: nowhere."""
    otlp_endpoint: str = ""
    """http://HOST:PORT or https://HOST:PORT of an OpenTelemetry collector's OTLP/gRPC; empty: no spans are made."""
    otlp_sample_rate: float = 0.01
    """Share of the requests without a traceparent of their own that become spans."""
    max_message_bytes: int = 256 << 20
    """Largest request message; a larger one is answered RESOURCE_EXHAUSTED."""
    drain_seconds: float = 10.0
    """How long requests in flight may take to end when the process stops."""
    triton_error_codes: bool = False
    """Answer with Triton's status codes where ours say more, as for a full queue."""
    shift_sample_rate: float = 0.01
    """Share of the requests that covariate shift is measured on; 0: none."""
    shift_keep_rows: int = 1024
    """Newest sampled inputs of each version that stay in memory, to recalibrate with. All callers may read them."""

    def __post_init__(self) -> None:
        for flag, address in (("--grpc", self.grpc), ("--http", self.http)):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or int(port) > 65535:
                raise SettingsError(f"{flag} {address}: expected HOST:PORT, for example 127.0.0.1:0")
            self.security.check_bind(address)
        unknown = [name for name in self.engines if name not in CATALOGUE]
        if unknown or not self.engines:
            raise SettingsError(f"--engines {','.join(self.engines)}: expected some of {', '.join(CATALOGUE)}")
        if self.max_message_bytes < 4096:
            raise SettingsError(f"--max-message-bytes {self.max_message_bytes}: expected at least 4096")
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise SettingsError(f"--otlp-endpoint {self.otlp_endpoint}: expected http://HOST:PORT or https://HOST:PORT")
        if not 0 <= self.otlp_sample_rate <= 1:
            raise SettingsError(f"--otlp-sample-rate {self.otlp_sample_rate:g}: expected a share, 0 to 1")
        if not 0 <= self.shift_sample_rate <= 1:
            raise SettingsError(f"--shift-sample-rate {self.shift_sample_rate:g}: expected a share, 0 to 1")
        if self.shift_keep_rows < 0:
            raise SettingsError(f"--shift-keep-rows {self.shift_keep_rows}: expected 0 or more")
        if self.drain_seconds < 0:
            raise SettingsError(f"--drain-seconds {self.drain_seconds}: expected 0 or more")

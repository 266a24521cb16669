"""How one control plane runs, checked once at the start."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from batchyard.control.inference_flags import InferenceFlags
from batchyard.control.quotas import NO_QUOTA, Quota
from batchyard.control.store.postgresql import DatabaseUrlError, check_url
from batchyard.endpoint.security import Security
from batchyard.training.spec import python_architecture

EXECUTORS = ("ray", "local")


class SettingsError(ValueError):
    """A setting is outside what is possible; the message names it, says what is, and what to do."""


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one control plane runs. Raises SettingsError, or SecurityError for an address that may not be bound."""

    data_dir: Path
    """Holds everything that must not be lost: the database, the artifacts, the attempts that run."""
    grpc: str = "127.0.0.1:50051"
    """HOST:PORT of the API; port 0: any free one."""
    http: str = "127.0.0.1:8080"
    """HOST:PORT of the dashboard and /metrics; port 0: any free one."""
    inference: bool = True
    """Whether to run an inference plane beside this process."""
    inference_grpc: str = "127.0.0.1:8001"
    """HOST:PORT of its Open Inference Protocol; port 0: any free one."""
    inference_http: str = "127.0.0.1:8002"
    """HOST:PORT of its /metrics; port 0: any free one."""
    inference_flags: InferenceFlags = field(default_factory=InferenceFlags)
    """What else its inference plane is told."""
    executor: Literal["ray", "local"] = "ray"
    """ray: on a Ray cluster; local: plain subprocesses of this machine."""
    ray_address: str | None = None
    """An existing cluster; None: a head of our own on this machine, started at the first job."""
    workers: int = field(default_factory=_cores)
    """Most worker processes at once on this machine. Default: one for each CPU core that this process may use."""
    warm_workers: bool = True
    """Whether a process on this machine holds what workers need to have loaded, about 0.3 GiB, and forks them."""
    database_url: str | None = None
    """postgresql://[USER@]HOST[:PORT]/NAME; None: an SQLite file in the data folder."""
    artifacts: str | None = None
    """The fsspec URI below which published models go, such as s3://bucket/models; None: the data folder."""
    checkpoints: str | None = None
    """The fsspec URI below which checkpoints go; None: the data folder."""
    datasets: tuple[Path, ...] = ()
    """Folders where datasets are looked for, in this order."""
    allow_python: tuple[str, ...] = ()
    """Packages whose code a job may name as its network: it runs in the workers with all that they may do."""
    security: Security = field(default_factory=Security)
    quota: Quota = NO_QUOTA
    """What each user may have running at once."""
    standby: bool = False
    """Whether to wait while another control plane has the data folder, and to take over when that one ends."""

    def __post_init__(self) -> None:
        addresses = [("--grpc", self.grpc), ("--http", self.http)]
        if self.inference:
            addresses += [("--inference-grpc", self.inference_grpc), ("--inference-http", self.inference_http)]
        for flag, address in addresses:
            _check_address(flag, address)
            self.security.check_bind(address)
        for name in ("shift_sample_rate", "otlp_sample_rate"):
            share = getattr(self.inference_flags, name)
            if share is not None and not 0 <= share <= 1:
                raise SettingsError(f"--{name.replace('_', '-')} {share:g}: expected a share, 0 to 1")
        if self.database_url is not None:
            _check_database(self.database_url)
        for name in ("artifacts", "checkpoints"):
            _check_uri(f"--{name}", getattr(self, name))
        if self.executor not in EXECUTORS:
            raise SettingsError(f"--executor {self.executor}: expected one of {', '.join(EXECUTORS)}")
        if self.ray_address is not None and self.executor != "ray":
            raise SettingsError("--ray-address goes with --executor ray; leave one of the two out")
        if self.workers < 1:
            raise SettingsError(f"--workers {self.workers}: expected 1 or more")
        for name, most in vars(self.quota).items():
            if most is not None and most < (0 if name == "gpus" else 1):
                raise SettingsError(f"--user-{name} {most}: expected {0 if name == 'gpus' else 1} or more")
        for folder in self.datasets:
            if not folder.is_dir():
                raise SettingsError(f"--datasets {folder}: no such folder; create it or leave the flag out")
        for package in self.allow_python:
            if not python_architecture.is_package(package):
                expected = "expected a package's name, for example my_networks"
                raise SettingsError(f"{python_architecture.FLAG} {package}: {expected}")


def _check_database(url: str) -> None:
    try:
        check_url(url)
    except DatabaseUrlError as error:
        raise SettingsError(f"--database-url {error}") from error


def _check_uri(flag: str, uri: str | None) -> None:
    if uri is not None and not re.fullmatch(r"[a-z][a-z0-9+.-]*://.+", uri):
        expected = "expected a URI, for example s3://bucket/batchyard or file:///mnt/batchyard"
        raise SettingsError(f"{flag} {uri}: {expected}")


def _check_address(flag: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{flag} {address}: expected HOST:PORT, for example 127.0.0.1:0")

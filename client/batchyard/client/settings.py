"""Where the service is and how to talk to it: flags, environment, a local service's control.json, defaults.

This is the one place that reads the environment.
"""

from __future__ import annotations

import getpass
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchyard.client.errors import ConfigurationError

DEFAULT_CONTROL = "127.0.0.1:50051"
DEFAULT_INFERENCE = "127.0.0.1:8001"
DATA_FOLDER = "batchyard-data"
"""Where `batchyard up` keeps everything, below the current folder."""
CONTROL_FILE = "control.json"
"""Written by a running service into its data folder."""
SYSTEM_ROOTS = "system"
"""As tls_ca: TLS with the certificate authorities that the system trusts."""
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to reach a service. Raises ConfigurationError for what cannot work."""

    control: str = DEFAULT_CONTROL
    """host:port of the control plane."""
    inference: str = DEFAULT_INFERENCE
    """host:port of an inference plane."""
    token: str | None = field(default=None, repr=False)
    """Bearer token."""
    tls_ca: str | None = None
    """PEM file of the certificate authority to trust, or SYSTEM_ROOTS; None: no TLS."""

    def __post_init__(self) -> None:
        for name, address in (("control", self.control), ("inference", self.inference)):
            host = _host(name, address)
            if self.token and self.tls_ca is None and not is_loopback(host):
                raise ConfigurationError(
                    f"{name}: a token would travel to {address} unencrypted",
                    hint="Give the certificate authority with --tls-ca (or BATCHYARD_TLS_CA), or leave the token out.",
                )


def current_user(environ: Mapping[str, str] | None = None) -> str:
    """Who jobs are submitted for: BATCHYARD_USER, or else the name by which the system knows this user; empty where
    that is none that the service takes. Raises ConfigurationError.
    """
    environ = os.environ if environ is None else environ
    chosen = environ.get("BATCHYARD_USER")
    if chosen and not _USER.fullmatch(chosen):
        raise ConfigurationError(
            f"BATCHYARD_USER: {chosen[:80]!r} given; expected 1 to 64 letters, digits and any of . _ @ + -",
            hint="Name whom jobs are submitted for, or leave the variable out.",
        )
    try:
        name = chosen or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""
    return name if _USER.fullmatch(name) else ""


def read_settings(
    *,
    control: str | None = None,
    inference: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    tls_ca: str | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from, in this order: the arguments; BATCHYARD_CONTROL, BATCHYARD_INFERENCE, BATCHYARD_TOKEN_FILE and
    BATCHYARD_TLS_CA; batchyard-data/control.json below `folder` (default: the current one); the defaults.

    The token of a local service goes to that service only: it is not used when an address comes from elsewhere.
    """
    environ = os.environ if environ is None else environ
    local = read_control_file((folder or Path.cwd()) / DATA_FOLDER) or {}
    control = control or environ.get("BATCHYARD_CONTROL")
    inference = inference or environ.get("BATCHYARD_INFERENCE")
    elsewhere = any(given not in (None, local.get(key)) for given, key in ((control, "grpc"), (inference, _INFERENCE)))
    token_file = token_file or environ.get("BATCHYARD_TOKEN_FILE") or (None if elsewhere else local.get("token_file"))
    return Settings(
        control=control or local.get("grpc") or DEFAULT_CONTROL,
        inference=inference or local.get(_INFERENCE) or DEFAULT_INFERENCE,
        token=read_token(token_file) if token_file else None,
        tls_ca=tls_ca or environ.get("BATCHYARD_TLS_CA") or (SYSTEM_ROOTS if local.get("tls") else None),
    )


_INFERENCE = "inference_grpc"


def read_control_file(data_folder: Path) -> dict[str, Any] | None:
    """What the service that runs on `data_folder` has written about itself; None when there is no such file."""
    path = data_folder / CONTROL_FILE
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}", hint="Remove it if no service runs.") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: not a mapping", hint="Remove it if no service runs.")
    return values


def read_token(path: str | os.PathLike[str]) -> str:
    """The token in a file that only its owner may read. Raises ConfigurationError."""
    path = Path(path)
    try:
        mode = path.stat().st_mode & 0o777
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"token file {path}: {words}", hint="Name a file that holds the token.") from None
    if mode & 0o077:
        raise ConfigurationError(
            f"token file {path}: mode is {mode:04o}, so others may read it; expected 0600",
            hint=f"Run: chmod 600 {path}",
        )
    if not token:
        raise ConfigurationError(f"token file {path}: empty", hint="Write the token into it.")
    return token


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine and nothing else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(name: str, address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigurationError(
            f"{name}: {address!r} given; expected host:port", hint=f"For example {DEFAULT_CONTROL}."
        )
    return host.strip("[]")

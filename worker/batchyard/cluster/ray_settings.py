"""How Ray is told to keep to itself: loopback only, a token of ours, no usage reports."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

LONGEST_FOLDER = 40
"""Characters. Ray makes sockets like FOLDER/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store, and
the path of a socket may have 107.
"""


def environment(base: Mapping[str, str], folder: Path, *, own_head: bool) -> dict[str, str]:
    """The driver's environment. For a head of ours the user's Ray settings do not count: they are about other clusters;
    to reach an existing cluster they do (tokens, TLS).
    """
    common = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    if not own_head:
        return {**base, **common}
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(folder)),
        # Despite its name: keeps Ray from replacing 127.0.0.1 by the address of an outer interface, on which it would
        # listen then.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "AUTOSCALER_METRIC_PORT": "0",
        "RAY_BACKEND_LOG_LEVEL": "warning",
        # Ray would give workers the lowest priority but four; without Ray they have the usual one.
        "RAY_worker_niceness": "0",
    }
    return {**{name: value for name, value in base.items() if not name.startswith("RAY_")}, **common, **ours}


def token_file(folder: Path) -> Path:
    """A file with a secret that nobody else may read."""
    path = folder / "token"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path


def temporary_folder(folder: Path) -> Path:
    """A folder for Ray's files that nobody else may enter: below `folder`, or where that is too long for socket paths,
    in the system's folder for temporary files, or in /tmp.
    """
    inside = folder / "t"
    if len(str(inside)) <= LONGEST_FOLDER:
        inside.mkdir(mode=0o700, parents=True, exist_ok=True)
        return inside
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="by-", dir=base if len(base) <= LONGEST_FOLDER - 12 else "/tmp"))

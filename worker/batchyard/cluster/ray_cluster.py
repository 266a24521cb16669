"""The cluster as the driver process sees it: how it is started or joined, what it has, when it is dead."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray

from batchyard.cluster.executor import Capacity
from batchyard.cluster.processes import PROC, ProcessId

OBJECT_STORE_BYTES = 78 << 20
"""About the least that Ray accepts: events are small, and data sets do not travel through Ray."""
CONNECT_S = 60.0
"""How long Ray may take to start, or to be reached."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the driver is started with."""

    address: str | None
    """An existing cluster; None: start a head."""
    workers: int
    """CPUs of a head of ours."""
    temporary: str
    """A short folder for Ray's sockets and logs, and for ours."""
    namespace: str
    """Where our actors have their names; survives this process."""
    warm: bool
    """Whether workers are forked from processes that have loaded torch."""

    @property
    def socket(self) -> str:
        """Where requests are taken."""
        return f"{self.temporary}/driver"


def connect(config: Config) -> None:
    """Starts a head of our own on the loopback interface, or joins the cluster. Ray itself would try for minutes."""
    too_long = threading.Timer(CONNECT_S, give_up, [f"Ray did not answer within {CONNECT_S:g} s"])
    too_long.daemon = True
    too_long.start()
    if config.address is not None:
        knock(config.address)
    settings: dict[str, Any] = {"namespace": config.namespace, "log_to_driver": False, "logging_level": "WARNING"}
    if config.address is not None:
        settings["address"] = config.address
    else:
        settings |= {
            "address": "local",
            "num_cpus": config.workers,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": f"{config.temporary}/ray",
            "_node_ip_address": "127.0.0.1",
        }
    ray.init(**settings)
    too_long.cancel()


def knock(address: str) -> None:
    """Ends this process at once when nobody listens at host:port. Other forms of address are left to Ray."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        give_up(f"nobody answers at {address}: {error}")


def give_up(why: str) -> None:
    """Ends this process, which is all that is needed: the kernel ends a head of ours with it."""
    print(why, file=sys.stderr, flush=True)  # noqa: T201
    os._exit(1)


class NoNodeError(RuntimeError):
    """The cluster has no node that is alive: it is about to end, or to come back."""


def room() -> Capacity:
    """Workers and GPUs that the whole cluster has place for. A GPU counts with a CPU beside it.

    Raises NoNodeError where no node is alive: that says nothing about what a job asks for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if not nodes:
        raise NoNodeError("no node of the Ray cluster is alive")
    cpus = [int(resources.get("CPU", 0)) for resources in nodes]
    gpus = [min(int(resources.get("GPU", 0)), cpu) for resources, cpu in zip(nodes, cpus, strict=True)]
    return Capacity(workers=sum(cpus), gpus=sum(gpus))


def watch_head() -> None:
    """Ends this process, and with it the rest of the head, when a part of the head has died: nothing is left to save,
    and the control plane sees it at once.
    """
    parts = [ProcessId.of(pid) for pid, name in _children() if name in ("gcs_server", "raylet")]
    while all(part is not None and part.alive() for part in parts):
        time.sleep(0.2)
    give_up("a process of the Ray head has died")


def _children() -> list[tuple[int, str]]:
    pids = [int(pid) for task in (PROC / "self/task").iterdir() for pid in (task / "children").read_text().split()]
    return [(pid, (PROC / str(pid) / "comm").read_text().strip()) for pid in pids]

"""A fork server on every node of a cluster that is not ours alone, so that workers start warm wherever they land."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchyard.cluster.fork_client import ForkServer


class NodeForkServer:
    """Holds the fork server of one node. It takes no CPU share: what its forks take is counted by placement groups."""

    def __init__(self) -> None:
        self._server = ForkServer()
        self._server.ensure()

    def address(self) -> str:
        """Where workers of this node ask for a fork; a server that has died is replaced."""
        self._server.ensure()
        return self._server.address


class NodeForkServers:
    """All of them. Ray ends them with the driver, whose they are; attempts go on without. For one thread."""

    def __init__(self) -> None:
        self._servers: dict[str, tuple[Any, Any]] = {}
        """Node to the actor and its first answer."""

    def addresses(self) -> dict[str, str]:
        """Node to address, for every node whose server answers by now; has one started on every other node."""
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
        found: dict[str, str] = {}
        for node in nodes:
            try:
                found |= self._address(node)
            except RayError:  # it has died, and gets a successor next time
                del self._servers[node]
        return found

    def _address(self, node: str) -> dict[str, str]:
        if node not in self._servers:
            self._servers[node] = self._start(node)
        server, answer = self._servers[node]
        if not ray.wait([answer], timeout=0)[0]:
            return {}
        server.address.remote()  # has it look after its fork server; nobody waits for that
        return {node: ray.get(answer)}

    def _start(self, node: str) -> tuple[Any, Any]:
        actor: Any = ray.remote(NodeForkServer)
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        server = actor.options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()
        return server, server.address.remote()

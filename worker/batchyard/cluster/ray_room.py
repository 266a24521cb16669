"""The room of an attempt's workers on a Ray cluster: a placement group, on few nodes or on many, as its spec says."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from batchyard.cluster.attempts import Orders
from batchyard.cluster.supervision import RefusedError
from batchyard.cluster.verdict import infrastructure

PLACEMENT_S = 60.0
"""How long an attempt that the cluster has room for waits for that room to become free."""


class Room:
    """One bundle for each worker: a CPU, and its GPUs. Whoever holds it has them, wherever its processes come from."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._group: PlacementGroup | None = None

    @property
    def group(self) -> PlacementGroup:
        """The placement group, once reserved."""
        assert self._group is not None
        return self._group

    def reserve(self, cancelled: Callable[[], bool]) -> None:
        """Returns when there is room. Raises RefusedError when there is none in time, or `cancelled` becomes true."""
        bundle = {"CPU": 1.0}
        if self._orders.gpus_per_worker:
            bundle["GPU"] = float(self._orders.gpus_per_worker)
        # Both are wishes, not conditions: a cluster that has lost a node still trains what it has room for.
        strategy = {"pack": "PACK", "spread": "SPREAD"}[self._orders.placement]
        self._group = placement_group([bundle] * self._orders.world_size, strategy=strategy)
        ready = self._group.ready()
        deadline = time.monotonic() + PLACEMENT_S
        while not ray.wait([ready], timeout=0.2)[0]:
            if cancelled() or time.monotonic() > deadline:
                raise RefusedError(infrastructure(self._no_room(bundle), self._orders.attempt.id.job))

    def _no_room(self, bundle: dict[str, float]) -> str:
        resources = ray.available_resources()  # type: ignore[no-untyped-call]
        free = {name: resources.get(name, 0) for name in bundle}
        return (
            f"no room on the Ray cluster within {PLACEMENT_S:g} s: {self._orders.world_size} workers with {bundle} "
            f"each were asked for, {free} are free; somebody else is using the rest"
        )

    def leave(self) -> None:
        """Gives the room back."""
        if self._group is not None:
            remove_placement_group(self._group)

    def left(self) -> bool:
        """Whether the room is free again."""
        group = {} if self._group is None else placement_group_table(self._group)
        return group.get("state") in (None, "REMOVED")

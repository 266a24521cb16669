"""The chosen engines of a version, loaded: one, or one for small and one for large batches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchyard.serving.engines.catalogue import open_engine
from batchyard.serving.engines.choice import batch_sizes
from batchyard.serving.engines.interface import Engine, Network
from batchyard.serving.engines.timings import Share


class EngineByBatch:
    """Several engines for one network, by the rows of the batch."""

    def __init__(self, shares: Sequence[tuple[int, Engine]]) -> None:
        """`shares`: up to how many rows, and who; rising."""
        self._bounds = [up_to for up_to, _ in shares[:-1]]  # a batch larger than all is the last one's, too
        self._engines = [engine for _, engine in shares]
        self.name = "+".join(dict.fromkeys(engine.name for engine in self._engines))

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        return self._engines[bisect_left(self._bounds, len(rows))].run(rows)

    def close(self) -> None:
        """Frees them all."""
        for engine in self._engines:
            engine.close()


def open_chosen(network: Network, chosen: Sequence[Share]) -> Engine:
    """Loads them. Raises EngineError."""
    opened: list[tuple[int, Engine]] = []
    try:
        for share in chosen:
            opened.append((share.up_to, open_engine(share.engine, network, share.threads)))
    except BaseException:
        for _, engine in opened:
            engine.close()
        raise
    return opened[0][1] if len(opened) == 1 else EngineByBatch(opened)


def warm_up(engine: Engine, row_shape: tuple[int, ...], max_batch: int) -> None:
    """Runs every batch size once: memory plans and caches are made now, not by the first callers."""
    for rows in batch_sizes(max_batch):
        engine.run(np.zeros((rows, *row_shape), np.float32))

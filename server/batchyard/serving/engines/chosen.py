"""The chosen engines of a version, loaded: one, or one for small and one for large batches."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from batchyard.serving.engines.catalogue import open_engine
from batchyard.serving.engines.choice import ONE_THREAD_IS_ENOUGH_SECONDS, batch_sizes
from batchyard.serving.engines.interface import Engine, Network
from batchyard.serving.engines.timings import Share, cores

LONG_RUN_SECONDS = 0.01

Rest = Callable[[float], None]


class EngineByBatch:
    """Several engines for one network, by the rows of the batch."""

    def __init__(self, shares: Sequence[tuple[int, Engine]]) -> None:
        """`shares`: up to how many rows, and who; rising."""
        self._bounds = [up_to for up_to, _ in shares[:-1]]  # a batch larger than all is the last one's, too
        self._engines = [engine for _, engine in shares]
        self.name = "+".join(dict.fromkeys(engine.name for engine in self._engines))
        self.error_share = max(getattr(engine, "error_share", 0.0) for engine in self._engines)
        """See engines/certificate.py."""

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
    if len(opened) == 1:
        return opened[0][1]
    for _, engine in opened:
        engine.run(np.zeros((1, *network.row_shape), np.float32))  # warm_up may not come to the sizes of them all
    return EngineByBatch(opened)


def open_first(network: Network, name: str, max_batch: int) -> tuple[Engine, Share]:
    """Loads an engine of which nothing is known yet: with one thread, or with all cores where one takes long.

    Raises EngineError.
    """
    engine = open_engine(name, network, 1)
    if (threads := cores()) > 1 and _takes_long(engine, network.row_shape, max_batch):
        engine.close()
        engine = open_engine(name, network, threads)
    else:
        threads = 1
    return engine, Share(up_to=max_batch, engine=name, threads=threads)


def _takes_long(engine: Engine, row_shape: tuple[int, ...], max_batch: int) -> bool:
    return any(_seconds(engine, row_shape, rows) > ONE_THREAD_IS_ENOUGH_SECONDS for rows in batch_sizes(max_batch))


def no_rest(seconds: float) -> None:
    """After a run that took so long: nobody else serves."""


def warm_up(engine: Engine, row_shape: tuple[int, ...], max_batch: int, rest: Rest = no_rest) -> float:
    """Runs the batch sizes: plans and kernels are made now, not by the first callers. Returns a full batch's seconds.

    Sizes above the first that takes LONG_RUN_SECONDS are left out, and take in proportion: what is made once is made by
    then (66 ms instead of 7 for a first run of ResNet-18), and another size's first run takes hardly longer than its
    second, but as long as that of what serves beside it. `rest` is called after each run.
    """
    for rows in batch_sizes(max_batch):
        seconds = _seconds(engine, row_shape, rows, rest)
        if seconds > LONG_RUN_SECONDS:
            break
    return seconds * max_batch / rows


def _seconds(engine: Engine, row_shape: tuple[int, ...], rows: int, rest: Rest = no_rest) -> float:
    """Of one batch, the faster of two: the first makes plans and memory."""
    batch, seconds = np.zeros((rows, *row_shape), np.float32), []
    for _ in range(2):
        began = time.perf_counter()
        engine.run(batch)
        seconds.append(time.perf_counter() - began)
        rest(seconds[-1])
    return min(seconds)

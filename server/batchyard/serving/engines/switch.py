"""An engine that can be exchanged for another while it serves."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from batchyard.serving.engines.interface import Engine


class SwitchedEngine:
    """Runs each batch whole on the engine of the moment; to the batcher it is one and the same."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running = threading.Lock()  # 0.1 us for a batch: only `switch` ever asks for it at the same time

    @property
    def name(self) -> str:
        """Of the engine of the moment."""
        return self._engine.name

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs]."""
        with self._running:
            return self._engine.run(rows)

    def switch(self, engine: Engine) -> None:
        """From the next batch on. Waits for the one that runs, so it is not for the event loop; closes the old one."""
        with self._running:
            before, self._engine = self._engine, engine
        if before is not engine:
            before.close()

    def close(self) -> None:
        """Frees the engine of the moment."""
        self._engine.close()

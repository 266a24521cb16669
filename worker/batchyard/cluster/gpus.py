"""The GPUs of this machine, counted and lent without loading CUDA or torch."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def visible() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to, one item a GPU; an existing CUDA_VISIBLE_DEVICES narrows it."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")]
    cards = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index in range(len(list(cards.iterdir())))] if cards.is_dir() else []


class GpuLease:
    """GPUs that this process holds against other supervisors that use the same folder; a dead holder's are free.

    Args:
        folder: of the locks.
        among: the GPUs to choose from; None: those that are visible here.
    """

    def __init__(self, folder: Path, among: list[str] | None = None) -> None:
        self._folder = folder
        self._among = among
        self._held: list[int] = []

    def take(self, count: int) -> list[str] | None:
        """`count` free GPUs, or None when there are not as many."""
        if count == 0:
            return []
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken: list[str] = []
        for gpu in visible() if self._among is None else self._among:
            file = os.open(self._folder / f"{gpu.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            self._held.append(file)
            taken.append(gpu)
            if len(taken) == count:
                return taken
        self.free()
        return None

    def free(self) -> None:
        """Gives all of them back."""
        while self._held:
            os.close(self._held.pop())

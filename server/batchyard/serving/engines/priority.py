"""How far what is done beside requests yields to them."""

from __future__ import annotations

import os

LOWER_PRIORITY = 10
"""Nice: about a tenth of a core where all are busy. At 19 it would be a hundredth, and a busy server would never see
its new version."""


def lower_priority() -> None:
    """Of the calling thread, from what it has: on Linux each has its own.

    A server may have been started niced already, and only a privileged one could go back to less than that.
    """
    os.nice(LOWER_PRIORITY)

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


def only_what_is_left() -> None:
    """The calling thread runs while a core has nothing else to do, and gives way at once.

    However nice a thread is, the scheduler (EEVDF, Linux 6.6) may let it finish a slice of milliseconds before another
    one that wakes gets the core, and those of an engine wake for each layer: with ResNet-18 at half load, batches took
    as long as on one core while a thread of nice 10 read and opened the next version. A thread of SCHED_IDLE (sched(7))
    has no such right. Where that is forbidden, it is nice.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        lower_priority()

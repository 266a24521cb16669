"""Which checkpoints of a job are kept: one rule, for the worker that removes files and the database that lists them."""

from __future__ import annotations

from collections.abc import Mapping


def retained(accuracies: Mapping[int, float | None], keep: int, keep_best: int) -> frozenset[int]:
    """The steps of the latest `keep` checkpoints and of the `keep_best` most accurate; of equal ones the earlier.

    Args:
        accuracies: step to held-out accuracy; None where nobody has evaluated at that step.
        keep: 1 or more.
        keep_best: 0 or more.
    """
    latest = sorted(accuracies)[-keep:]
    known = [(-accuracy, step) for step, accuracy in accuracies.items() if accuracy is not None]
    return frozenset((*latest, *(step for _, step in sorted(known)[:keep_best])))

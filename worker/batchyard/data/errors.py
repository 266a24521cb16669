"""What can be wrong with training data. Standard library only."""

from __future__ import annotations


class DataError(Exception):
    """A dataset is missing or damaged, or does not suit the job.

    Args:
        cause: the file or field, what was found, what was expected.
        next_step: what to do about it.
    """

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(f"{cause}; {next_step}")
        self.cause = cause
        self.next_step = next_step

"""What can be wrong with a published model. Standard library only."""

from __future__ import annotations

from typing import Self


class ArtifactError(Exception):
    """The artifact is missing, damaged, not certified, or cannot be written; the message names the file."""

    passing = False
    """Whether it may go well by itself later: the storage is out of reach or busy."""

    @classmethod
    def of(cls, text: str, cause: Exception) -> Self:
        """The error that says `text` because of `cause`."""
        error = cls(text)
        error.passing = getattr(cause, "passing", False)
        return error

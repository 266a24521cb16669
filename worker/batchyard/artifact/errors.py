"""What can be wrong with a published model. Standard library only."""

from __future__ import annotations


class ArtifactError(Exception):
    """The artifact is missing, damaged, not certified, or cannot be written; the message names the file."""

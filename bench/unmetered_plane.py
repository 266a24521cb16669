"""The inference plane with nothing counted, for bench/metrics_cost.py: takes the plane's own options."""

from __future__ import annotations

import sys
from unittest import mock

from batchyard.serving.__main__ import main as serve
from batchyard.serving.metrics import VersionMetrics


def main() -> int:
    """Serves."""
    with mock.patch.multiple(VersionMetrics, request_waited=_ignore, answered=_ignore, batch_ran=_ignore):
        return serve()


def _ignore(*counted: object) -> None:
    """Instead of counting."""


if __name__ == "__main__":
    sys.exit(main())

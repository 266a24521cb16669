"""The inference plane with nothing counted, for bench/metrics_cost.py: takes the plane's own options."""

from __future__ import annotations

import sys

from batchyard.serving.__main__ import main as serve
from batchyard.serving.metrics import VersionMetrics


def main() -> int:
    """Serves."""
    for name in ("request_waited", "answered", "batch_ran"):
        setattr(VersionMetrics, name, _ignore)
    return serve()


def _ignore(*counted: object) -> None:
    """Instead of counting."""


if __name__ == "__main__":
    sys.exit(main())

"""docs/metrics.md is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_metrics_is_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, "tools/generate_metrics_doc.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

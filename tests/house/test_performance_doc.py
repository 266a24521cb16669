"""docs/performance.md against bench/results."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_measurements_is_what_the_results_say() -> None:
    command = [sys.executable, "tools/generate_performance_doc.py", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, "run tools/generate_performance_doc.py"

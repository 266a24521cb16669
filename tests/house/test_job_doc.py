"""docs/job-spec.md against the spec's dataclasses."""

import subprocess
import sys
from pathlib import Path

from batchyard.client import read_job
from batchyard.control.rpc.convert import spec_mapping
from batchyard.training.spec import TrainingJobSpec

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "job-spec.md"


def test_the_page_on_the_job_file_is_what_the_code_says() -> None:
    command = [sys.executable, "tools/generate_job_doc.py", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_whole_file_on_the_page_is_a_job() -> None:
    example = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    spec = TrainingJobSpec.from_mapping(spec_mapping(read_job(example)))
    assert spec.total_steps(23) == 460

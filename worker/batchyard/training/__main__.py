"""python -m batchyard.training JOB.yaml --data FOLDER --out FOLDER: one job, one worker, in this process, no service.

For debugging, and for machines that have a GPU and no Ray. Events go to standard output as lines of JSON; the published
model goes to FOLDER/artifact.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.events import Event, TrainingError
from batchyard.training.spec import SpecError, TrainingJobSpec
from batchyard.training.worker import run


def main(arguments: list[str]) -> int:
    """Runs the job; the exit status: 0, or 1 for a failure that the last line on standard error explains."""
    options = _parser().parse_args(arguments)
    try:
        spec = TrainingJobSpec.from_mapping(_read(options.job))
        if spec.workers.count != 1:
            given = spec.workers.count
            raise TrainingError(f"workers.count: {given} given; this command is one worker", "set workers.count to 1")
        run(_context(spec, options))
    except SpecError as error:
        return _fail(*(f"{violation.field}: {violation.description}" for violation in error.violations))
    except TrainingError as error:
        return _fail(error.cause, error.next_step)
    except (StoppedError, KeyboardInterrupt):
        return _fail("stopped")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m batchyard.training", description=__doc__)
    parser.add_argument("job", type=Path, help="the job file, YAML or JSON")
    parser.add_argument("--data", action="append", default=[], metavar="FOLDER", help="where datasets are; repeatable")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets the folder `artifact`")
    return parser


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path} cannot be read: {error}", "give a job file in YAML or JSON") from error


def _context(spec: TrainingJobSpec, options: argparse.Namespace) -> WorkerContext:
    return WorkerContext(
        job=spec.name,
        attempt=1,
        spec=spec,
        rank=0,
        world_size=1,
        connect=_alone,
        emit=_print,
        stop_requested=lambda: False,
        artifact_uri=str(options.out.absolute() / "artifact"),
        data_folders=tuple(options.data),
        device="cuda" if spec.workers.gpus_per_worker else "cpu",
    )


def _alone() -> Any:
    raise AssertionError("a single worker has nobody to meet")


def _print(event: Event) -> None:
    sys.stdout.write(json.dumps(event.to_json()) + "\n")
    sys.stdout.flush()


def _fail(*lines: str) -> int:
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

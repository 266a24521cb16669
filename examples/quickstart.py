"""The whole service once, on this machine: `make quickstart`.

Starts a service on free ports with a data folder of its own, trains a batch-normalised network on two Ray workers,
publishes it folded and certified, asks it for every held-out image through the Open Inference Protocol, and stops
everything. Ends with a summary; QUICKSTART_JSON=FILE gets it as JSON, too. Exit code 1 when anything is not as it
should be.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.cli import local
from batchyard.cli.failures import Failure
from batchyard.cli.follow import follow
from batchyard.client import BatchyardError, Client, ModelVersion, TrainingJob
from batchyard.data import DataError, Dataset, load, mnist

ROOT = Path(__file__).resolve().parents[1]
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WORKERS = 2
CONCURRENCY = 64
"""Requests under way at once while speed is measured."""
MEASURE_SECONDS = 5.0
BATCH = 500
"""Images a request while accuracy is measured."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train on."""

    dataset: str
    folders: tuple[Path, ...]
    """Where the service looks for data files."""
    job_file: Path
    least_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of it; the keys of the JSON."""

    dataset: str
    accuracy_unfolded: float
    accuracy_served: float
    certificate_error: float
    certificate_bound: float
    bn_layers_folded: int
    requests_per_second: float
    submit_to_first_step_s: float
    seconds: float


def main() -> int:
    """Runs it all; returns the exit code."""
    began = time.monotonic()
    for number in ENDS:
        signal.signal(number, signal.default_int_handler)
    try:
        plan = choose()
        data = load(plan.dataset, [str(folder) for folder in plan.folders])
        print(f"Data     {plan.dataset}: {len(data.train):,} training and {len(data.test):,} held-out images")
        folder = ROOT / "quickstart-data" / datetime.now().strftime("%Y%m%d-%H%M%S")
        with service(folder, plan) as client:
            version, first_step = train(client, plan)
            summary = ask(client, data, version, first_step, began)
            check(summary, plan)
        show(summary, folder, plan)
    except KeyboardInterrupt:
        print("\nquickstart: interrupted; everything it started is stopped", file=sys.stderr)
        return 130
    except (BatchyardError, DataError, Failure, OSError) as error:
        log = getattr(error, "log", "")
        hint = getattr(error, "hint", "") or getattr(error, "next_step", "")
        print(f"{log}\nquickstart failed: {error}\n  {hint}".strip(), file=sys.stderr)
        return 1
    return 0


def choose() -> Plan:
    """MNIST where $BATCHYARD_DATA or ../shared/data has it; else the digits that come with scikit-learn."""
    given = os.environ.get("BATCHYARD_DATA")
    candidates = [*([Path(given)] if given else []), ROOT.parent / "shared" / "data"]
    folders = tuple(folder.resolve() for folder in candidates if folder.is_dir())
    places = [folder / place for folder in folders for place in mnist.MNIST.places]
    # Damaged or incomplete files are for the loader to complain about, not for a quiet change of data.
    found = any(any(place.glob(f"{name}*")) for place in places for name in mnist.FILES)
    name, least = ("mnist", 0.975) if found else ("digits", 0.95)
    return Plan(dataset=name, folders=folders, job_file=ROOT / "examples" / f"{name}-mlp.yaml", least_accuracy=least)


@contextmanager
def service(folder: Path, plan: Plan) -> Iterator[Client]:
    """A service on free ports, and a client for it; stopped whole at the end, whatever happens."""
    addresses = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    datasets = ["--datasets", *map(str, plan.folders)] if plan.folders else []
    running, _ = local.start([*addresses, "--workers", str(WORKERS), *datasets], folder)
    try:
        facts = running.facts
        print(f"Service  control {facts['grpc']}, inference {facts['inference_grpc']}, http://{facts['http']}")
        with Client(facts["grpc"], facts["inference_grpc"]) as client:
            yield client
    finally:
        for number in ENDS:  # a second Ctrl-C must not leave half of it behind
            signal.signal(number, signal.SIG_IGN)
        print("Stopping the service ...", flush=True)
        local.stop(running, folder, force=True)


def train(client: Client, plan: Plan) -> tuple[ModelVersion, float]:
    """Trains and publishes; returns the version and the seconds from submission to the first step's end."""
    job = client.submit(plan.job_file)
    print(f"Job      {job.name.removeprefix('trainingJobs/')} on {WORKERS} Ray workers; Ray starts now\n")
    job = follow(client, job.name)
    if job.state != TrainingJob.SUCCEEDED:
        raise Failure(f"the job ended {TrainingJob.State.Name(job.state)}: {job.failure.cause}", job.failure.next_step)
    waited = job.first_step_time.ToDatetime() - job.create_time.ToDatetime()
    return client.version(job.model_version), waited.total_seconds()


def ask(client: Client, data: Dataset, version: ModelVersion, first_step: float, began: float) -> Summary:
    """Every held-out image, as a client would send it, and then single images as fast as they are answered."""
    model = version.name.split("/")[1]
    wait_until_served(client, model)
    print(f"\nAsking   {len(data.test):,} held-out images through the Open Inference Protocol ...")
    logits = ask_all(client, model, data.test.images)
    served = float((logits.argmax(axis=1) == data.test.labels).mean())
    check_folding(logits, data.test.labels, version)
    speed = requests_per_second(client, model, data.test.images[:1])
    return Summary(
        dataset=data.name,
        accuracy_unfolded=version.accuracy_unfolded,
        accuracy_served=served,
        certificate_error=version.certificate.max_error,
        certificate_bound=version.certificate.bound,
        bn_layers_folded=sum(entry.status == "folded" for entry in version.fold_report),
        requests_per_second=round(speed, 1),
        submit_to_first_step_s=round(first_step, 3),
        seconds=round(time.monotonic() - began, 1),
    )


def wait_until_served(client: Client, model: str, within: float = 30.0) -> None:
    """Returns when the inference plane has loaded, verified and warmed up the model."""
    deadline = time.monotonic() + within
    while not client.inference.model_ready(model):
        if time.monotonic() > deadline:
            raise Failure(f"the inference plane does not serve {model} after {within:.0f} s", "See its log.")
        time.sleep(0.05)


def ask_all(client: Client, model: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The logits of every image, sent as raw pixels."""
    batches = ({"pixels": images[i : i + BATCH]} for i in range(0, len(images), BATCH))
    answers = client.inference.infer_many(model, batches, concurrency=4)
    return np.concatenate([answer.outputs["logits"] for answer in answers])


def check_folding(logits: NDArray[np.float32], labels: NDArray[np.int64], version: ModelVersion) -> None:
    """The served network may answer otherwise than the unfolded one only where two classes lie closer together than
    the certificate's bound lets each of them move.
    """
    first, second = np.sort(logits.astype(np.float64), axis=1)[:, :-3:-1].T
    close = int((first - second <= 2 * version.certificate.bound).sum())
    right = int((logits.argmax(axis=1) == labels).sum())
    unfolded = round(version.accuracy_unfolded * len(labels))
    if abs(right - unfolded) > close:
        raise Failure(
            f"the served network has {right} of {len(labels)} right, the unfolded one {unfolded}; "
            f"the certificate allows a difference of {close}",
            "This is a fault of the folding or of the engine: please report it with the data folder.",
        )


def requests_per_second(client: Client, model: str, image: NDArray[np.uint8]) -> float:
    """Single images, CONCURRENCY under way, for MEASURE_SECONDS. A Python client on the same machine sets the pace."""
    began, count = time.monotonic(), 0
    for _ in client.inference.infer_many(model, repeat({"pixels": image}), concurrency=CONCURRENCY):
        count += 1
        if time.monotonic() - began > MEASURE_SECONDS:
            break
    return count / (time.monotonic() - began)


def check(summary: Summary, plan: Plan) -> None:
    """Writes the JSON, then refuses what falls short."""
    if target := os.environ.get("QUICKSTART_JSON"):
        Path(target).write_text(json.dumps(asdict(summary), indent=2) + "\n")
    if min(summary.accuracy_served, summary.accuracy_unfolded) < plan.least_accuracy:
        raise Failure(
            f"accuracy {summary.accuracy_served:.2%} on {plan.dataset}; expected {plan.least_accuracy:.1%} or more",
            f"Look at {plan.job_file} and at the job's log.",
        )


def show(summary: Summary, folder: Path, plan: Plan) -> None:
    """The summary: a table for people, plain lines for a pipe."""
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    rows = {
        "Dataset": summary.dataset,
        "Accuracy, unfolded network": f"{summary.accuracy_unfolded:.2%}",
        "Accuracy, as served": f"{summary.accuracy_served:.2%}",
        "Certificate: largest error": f"{summary.certificate_error:.3g} (allowed {summary.certificate_bound:.3g})",
        "BN layers folded away": str(summary.bn_layers_folded),
        "Single-image requests/s": f"{summary.requests_per_second:,.0f} (one Python client, the same cores)",
        "Submit to first step": f"{summary.submit_to_first_step_s:.1f} s (Ray's start included)",
        "All of it": f"{summary.seconds:.0f} s",
    }
    _print_table(rows)
    datasets = "".join(f" --datasets {place}" for place in plan.folders)
    print(f"Look at it again   .venv/bin/batchyard up --data-dir {shown}{datasets}")
    print("                   and then http://127.0.0.1:8080")
    print(f"Train another      .venv/bin/batchyard submit examples/{plan.dataset}-mlp.yaml --follow")
    print(f"Its logs           {shown}")


def _print_table(rows: dict[str, str]) -> None:
    if not sys.stdout.isatty():
        for label, value in rows.items():
            print(f"{label}\t{value}")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Batchyard quickstart", box=box.ROUNDED, show_header=False)
    for row in rows.items():
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m batchyard.control`: one control plane, until SIGTERM or SIGINT.

Exit status: 0 stopped as asked; 1 it could not come up; 2 the arguments cannot work; 3 the data folder is in use; 4
another control plane has taken the database over.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from batchyard.control.app import ControlPlane
from batchyard.control.data_folder import FolderInUseError
from batchyard.control.inference_child import InferenceError
from batchyard.control.inference_flags import InferenceFlags
from batchyard.control.quotas import Quota
from batchyard.control.settings import EXECUTORS, Settings, SettingsError
from batchyard.control.store.database import DatabaseUnreachableError
from batchyard.control.store.migrations import SchemaError
from batchyard.endpoint.security import Security, SecurityError

log = logging.getLogger(__name__)

LEASE_LOST = 4
DATA_VARIABLE = "BATCHYARD_DATA"
"""The environment variable that stands for --datasets."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a control plane; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("alembic", "aiobotocore", "botocore"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        return asyncio.run(_run(_settings(_parser().parse_args(arguments))))
    except (SettingsError, SecurityError) as error:
        return _complain(error, 2)
    except FolderInUseError as error:
        return _complain(error, 3)
    except (InferenceError, SchemaError, DatabaseUnreachableError) as error:
        return _complain(error, 1)


async def _run(settings: Settings) -> int:
    asked_to_stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, asked_to_stop.set)
    plane = ControlPlane(settings)
    stop = asyncio.create_task(asked_to_stop.wait())
    start = asyncio.create_task(plane.start())
    try:
        await asyncio.wait([start, stop], return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            await _until(plane, stop)
    finally:
        for task in (start, stop):
            task.cancel()
        await asyncio.gather(start, stop, return_exceptions=True)
        await plane.stop()
    return 0


async def _until(plane: ControlPlane, stop: asyncio.Task[Any]) -> None:
    """Returns when the service is to stop. One that is fenced off ends at once, as if killed: its jobs, its Ray and its
    inference plane are another's by now.
    """
    lost = asyncio.create_task(plane.lost.wait())
    await asyncio.wait([stop, lost], return_when=asyncio.FIRST_COMPLETED)
    if lost.done() and not stop.done():
        log.critical("another control plane has taken the database over: this one ends, and leaves the jobs to it")
        logging.shutdown()
        os._exit(LEASE_LOST)
    lost.cancel()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m batchyard.control", description=__doc__)
    defaults = Settings.__dataclass_fields__
    add = parser.add_argument
    add("--data-dir", required=True, type=Path, metavar="DIR", help="database, artifacts and everything else to keep")
    add(
        "--database-url",
        metavar="URL",
        help="postgresql://[USER@]HOST[:PORT]/NAME (default: a file in the data folder)",
    )
    add("--grpc", default=defaults["grpc"].default, metavar="HOST:PORT", help="the API (%(default)s)")
    add("--http", default=defaults["http"].default, metavar="HOST:PORT", help="dashboard, /metrics (%(default)s)")
    add("--no-inference", action="store_true", help="run no inference plane beside this process")
    add("--inference-grpc", default=defaults["inference_grpc"].default, metavar="HOST:PORT",
        help="Open Inference Protocol of the inference plane (%(default)s)")  # fmt: skip
    add("--inference-http", default=defaults["inference_http"].default, metavar="HOST:PORT",
        help="/metrics of the inference plane (%(default)s)")  # fmt: skip
    InferenceFlags.add_to(parser)
    add("--executor", default="ray", choices=EXECUTORS, help="what runs the jobs (%(default)s)")
    add("--ray-address", metavar="ADDRESS", help="an existing Ray cluster (default: one of our own, on this machine)")
    add("--workers", type=int, metavar="N", help="most worker processes at once here (default: one per CPU core)")
    add("--no-warm-workers", action="store_true", help="load torch anew for each worker: 0.3 GiB less, 2 s more a job")
    add("--artifacts", metavar="URI", help="where published models go, s3://BUCKET/FOLDER (default: the data folder)")
    add("--checkpoints", metavar="URI", help="where checkpoints go, s3://BUCKET/FOLDER (default: the data folder)")
    add("--datasets", type=Path, nargs="+", metavar="FOLDER",
        help=f"where datasets are looked for, in this order (default: ${DATA_VARIABLE})")  # fmt: skip
    add("--allow-python", nargs="+", default=[], metavar="PACKAGE",
        help="packages whose code jobs may name as their network (default: none)")  # fmt: skip
    add("--user-jobs", type=int, metavar="N", help="most jobs of one user that run at once (default: any number)")
    add("--user-workers", type=int, metavar="N", help="most workers of one user at once (default: any number)")
    add("--user-gpus", type=int, metavar="N", help="most GPUs of one user at once (default: any number)")
    add("--standby", action="store_true", help="wait while another control plane has the data folder, then take over")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM certificate chain; with --tls-key")
    add("--tls-key", type=Path, metavar="FILE", help="PEM private key")
    add("--token-file", type=Path, metavar="FILE", help="bearer token that callers must bear, mode 0600")
    add("--insecure", action="store_true", help="allow an address that others can reach, without TLS and token")
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    from_environment = os.environ.get(DATA_VARIABLE)
    datasets = given.datasets or ([Path(from_environment)] if from_environment else [])
    return Settings(
        data_dir=given.data_dir,
        database_url=given.database_url,
        grpc=given.grpc,
        http=given.http,
        inference=not given.no_inference,
        inference_grpc=given.inference_grpc,
        inference_http=given.inference_http,
        inference_flags=InferenceFlags.read(given),
        executor=given.executor,
        ray_address=given.ray_address,
        **({} if given.workers is None else {"workers": given.workers}),
        warm_workers=not given.no_warm_workers,
        artifacts=given.artifacts,
        checkpoints=given.checkpoints,
        datasets=tuple(datasets),
        allow_python=tuple(given.allow_python),
        quota=Quota(jobs=given.user_jobs, workers=given.user_workers, gpus=given.user_gpus),
        standby=given.standby,
        security=Security(
            tls_cert=given.tls_cert, tls_key=given.tls_key, token_file=given.token_file, insecure=given.insecure
        ),
    )


def _complain(error: Exception, status: int) -> int:
    print(f"batchyard.control: {error}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())

"""`python -m batchyard.serving`: one inference plane."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

from batchyard.endpoint.security import Security, SecurityError
from batchyard.serving.app import InferencePlane
from batchyard.serving.engines.catalogue import CATALOGUE
from batchyard.serving.settings import Control, Limits, Settings, SettingsError

GARBAGE_THRESHOLDS = (50_000, 20, 20)
"""For gc.set_threshold. With Python's own, the collector walks every request in flight again and again: with 2,048 of
them a request of the small model takes 103 us of the event loop's thread instead of 61, with 64 of them 51, not 43.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; exit status 2 for settings that cannot work."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return asyncio.run(_serve(_settings(_parser().parse_args(arguments))))
    except (SettingsError, SecurityError) as error:
        print(f"batchyard.serving: {error}", file=sys.stderr)  # noqa: T201
        return 2


async def _serve(settings: Settings) -> int:
    asked_to_stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, asked_to_stop.set)
    plane = InferencePlane(settings)
    try:
        await plane.start()
        failed = await plane.run_until(asked_to_stop)
    finally:
        await plane.stop()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m batchyard.serving", description=__doc__)
    limits, defaults = Limits(), Settings.__dataclass_fields__
    add = parser.add_argument
    add("--control", required=True, metavar="HOST:PORT", help="gRPC address of the control plane to follow")
    add("--cache", required=True, type=Path, metavar="DIR", help="folder of this process alone, for verified artifacts")
    add("--grpc", default=defaults["grpc"].default, metavar="HOST:PORT", help="Open Inference Protocol (%(default)s)")
    add("--http", default=defaults["http"].default, metavar="HOST:PORT", help="/metrics, /healthz (%(default)s)")
    add("--transport", default="auto", choices=("auto", "native", "grpcio"), help="the gRPC server (%(default)s)")
    add("--ready-file", type=Path, metavar="FILE", help="gets pid and addresses as JSON once everything answers")
    add("--control-token-file", type=Path, metavar="FILE", help="bearer token for the control plane, mode 0600")
    add("--control-ca", type=Path, metavar="FILE", help="certificates to check the control plane against; asks for TLS")
    add("--tls-cert", type=Path, metavar="FILE", help="PEM certificate chain; with --tls-key")
    add("--tls-key", type=Path, metavar="FILE", help="PEM private key")
    add("--token-file", type=Path, metavar="FILE", help="bearer token that callers must bear, mode 0600")
    add("--insecure", action="store_true", help="allow an address that others can reach, without TLS and token")
    add("--engines", default=",".join(CATALOGUE), metavar="NAME,...",
        help="engines that may serve; the fastest that this machine can run does, those in bf16 only for models whose "
        "precision is bf16 (%(default)s)")  # fmt: skip
    add("--shared-memory", default="", metavar="PATTERN",
        help="keys in /dev/shm that clients may register, such as 'client-*'; none if not given")  # fmt: skip
    add("--model-control", default="none", choices=("none", "explicit"),
        help="explicit: clients may load and unload models (%(default)s)")  # fmt: skip
    add("--trace-dir", type=Path, metavar="DIR", help="where clients may have traces written; nowhere if not given")
    add("--otlp-endpoint", default="", metavar="URL",
        help="http://HOST:PORT of an OpenTelemetry collector's OTLP/gRPC, for spans; none if not given")  # fmt: skip
    add("--otlp-sample-rate", type=float, default=defaults["otlp_sample_rate"].default, metavar="SHARE",
        help="share of the requests without a traceparent that become spans (%(default)s)")  # fmt: skip
    add("--max-batch", type=int, default=limits.max_batch, metavar="ROWS", help="rows in one batch (%(default)s)")
    add("--queue-rows", type=int, default=limits.queue_rows, metavar="ROWS", help="rows that may wait (%(default)s)")
    add("--queue-bytes", type=int, default=limits.queue_bytes, metavar="N", help="bytes that may wait (%(default)s)")
    add("--max-message-bytes", type=int, default=defaults["max_message_bytes"].default, metavar="N",
        help="largest request (%(default)s)")  # fmt: skip
    add("--drain-seconds", type=float, default=defaults["drain_seconds"].default, metavar="S",
        help="time for requests in flight at the end (%(default)s)")  # fmt: skip
    add("--triton-error-codes", action="store_true",
        help="UNAVAILABLE for a full queue and for a request that expired in it, as Triton says")  # fmt: skip
    add("--shift-sample-rate", type=float, default=defaults["shift_sample_rate"].default, metavar="SHARE",
        help="share of the requests that covariate shift is measured on, 0 for none (%(default)s)")  # fmt: skip
    add("--shift-keep-rows", type=int, default=defaults["shift_keep_rows"].default, metavar="ROWS",
        help="newest sampled inputs to keep, for every caller to read; 0 for none (%(default)s)")  # fmt: skip
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    return Settings(
        control=Control(address=given.control, token_file=given.control_token_file, ca=given.control_ca),
        cache=given.cache,
        grpc=given.grpc,
        http=given.http,
        transport=given.transport,
        ready_file=given.ready_file,
        engines=tuple(given.engines.split(",")),
        security=Security(
            tls_cert=given.tls_cert, tls_key=given.tls_key, token_file=given.token_file, insecure=given.insecure
        ),
        limits=Limits(max_batch=given.max_batch, queue_rows=given.queue_rows, queue_bytes=given.queue_bytes),
        shared_memory=given.shared_memory,
        model_control=given.model_control,
        trace_dir=given.trace_dir,
        otlp_endpoint=given.otlp_endpoint,
        otlp_sample_rate=given.otlp_sample_rate,
        max_message_bytes=given.max_message_bytes,
        drain_seconds=given.drain_seconds,
        triton_error_codes=given.triton_error_codes,
        shift_sample_rate=given.shift_sample_rate,
        shift_keep_rows=given.shift_keep_rows,
    )


if __name__ == "__main__":
    sys.exit(main())

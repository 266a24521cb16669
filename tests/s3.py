"""A real S3 server on this machine, moto's, and what its users need in their environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import s3fs  # type: ignore[import-untyped]

from tests.children import running

BUCKET = "batchyard"
PATIENCE = 60.0


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """A server with one empty bucket. Gives the environment of those who use it; its log is in `folder`."""
    log = folder / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as out, running(command, stdout=out, stderr=subprocess.STDOUT) as server:
        try:
            environment = {
                "AWS_ENDPOINT_URL": _address(server, log),
                "AWS_ACCESS_KEY_ID": "someone",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            bucket(environment).create()
            # Those of another server: fsspec keeps one for each set of arguments, and the address is none of them.
            s3fs.S3FileSystem.clear_instance_cache()
            yield environment
        finally:
            server.terminate()


def bucket(environment: Mapping[str, str], name: str = BUCKET) -> boto3.resources.base.ServiceResource:
    """The bucket, for a look past fsspec."""
    resource = boto3.resource(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    return resource.Bucket(name)


def keys(environment: Mapping[str, str], prefix: str = "") -> list[str]:
    """The names of all objects that begin so."""
    return [each.key for each in bucket(environment).objects.filter(Prefix=prefix)]


def without_settings() -> dict[str, str]:
    """This process's environment without anything that tells of AWS."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _address(server: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())) is None:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return found[1]

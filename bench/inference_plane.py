"""One inference plane of ours as a process, and the control plane's side of its stream, for benches."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from batchyard.oip import Stub, messages
from batchyard.v1 import models_pb2, models_pb2_grpc, serving_pb2
from bench.oip_target import Target, wait

END_SECONDS = 30
MEASURED_SECONDS = 120.0


class OneModel(models_pb2_grpc.ModelServiceServicer):
    """A control plane that wants one version of one model served, another one when told."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wish: models_pb2.WatchServedModelsResponse | None = None
        self._ending = False

    def want(
        self,
        model: str,
        number: int,
        artifact: Path,
        sha256: str,
        settings: serving_pb2.ServingSettings | None = None,
        shadow: int | None = None,
    ) -> None:
        """Everyone who watches hears at once. `shadow`: the number of a second version, of the same artifact."""
        aliases = {"production": number} if shadow is None else {"production": number, "shadow": shadow}
        versions = [
            models_pb2.ModelVersion(
                name=f"models/{model}/versions/{each}", artifact_uri=str(artifact), manifest_sha256=sha256
            )
            for each in aliases.values()
        ]
        described = models_pb2.Model(
            name=f"models/{model}", latest_version=number, aliases=aliases, serving_settings=settings
        )
        served = models_pb2.ServedModel(model=described, versions=versions)
        with self._changed:
            self._wish = models_pb2.WatchServedModelsResponse(models=[served])
            self._changed.notify_all()

    def end(self) -> None:
        """Ends the streams."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def WatchServedModels(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Yields each wish."""
        told = None
        while (told := self._next(told)) is not None:
            yield told

    def _next(self, told: models_pb2.WatchServedModelsResponse | None) -> models_pb2.WatchServedModelsResponse | None:
        """Waits for another wish than the one told last; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending or self._wish is not told)
            return None if self._ending else self._wish


class Plane:
    """A running inference plane."""

    def __init__(self, control: OneModel, process: subprocess.Popen[bytes], addresses: dict[str, str]) -> None:
        self.control = control
        self.process = process
        self.grpc: str = addresses["grpc"]
        self._http = addresses["http"]

    def failures(self) -> dict[str, int]:
        """GRPC code -> requests that the plane says it answered with it."""
        with urllib.request.urlopen(f"http://{self._http}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        found: dict[str, int] = {}
        for line in lines:
            if line.startswith("batchyard_inference_failures_total{"):
                code = line.partition('code="')[2].partition('"')[0]
                found[code] = found.get(code, 0) + int(float(line.rpartition(" ")[2]))
        return found

    def resident_bytes(self) -> int:
        """Memory of the process now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the inference plane is not running")


@contextmanager
def running(folder: Path, *options: str, module: str = "batchyard.serving") -> Iterator[Plane]:
    """An inference plane with everything on, its cache and log in `folder`; it serves what `control.want` says.

    `module`: what is run, where it is not the plane as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready, log = folder / "ready.json", folder / "log"
    control = OneModel()  # type: ignore[abstract]  # one call is all that is called
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    models_pb2_grpc.add_ModelServiceServicer_to_server(control, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    command: Sequence[str] = [
        sys.executable, "-m", module, "--control", f"127.0.0.1:{port}", "--cache", str(folder / "cache"),
        "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--ready-file", str(ready), *options,
    ]  # fmt: skip
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait(ready.exists, process, log, "the inference plane to start")
            yield Plane(control, process, json.loads(ready.read_text()))
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            finally:
                process.kill()
                control.end()
                server.stop(None)


def until_measured(stub: Stub, model: str) -> None:
    """Waits until the plane has tried all engines, which it does while the first one serves."""
    deadline = time.monotonic() + MEASURED_SECONDS
    while time.monotonic() < deadline:
        config = stub.ModelConfig(messages.ModelConfigRequest(name=model)).config
        if not config.parameters["engine_choice"].string_value.startswith("measuring"):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the engines of {model} were not measured within {MEASURED_SECONDS:g} s")


@contextmanager
def serving(
    folder: Path,
    target: Target,
    artifact: Path,
    sha256: str,
    *options: str,
    settings: serving_pb2.ServingSettings | None = None,
) -> Iterator[Target]:
    """The target, its address filled in, once it answers. Raises RuntimeError at the end when a request failed."""
    with running(folder, *options) as plane:
        plane.control.want(target.model, 1, artifact, sha256, settings)
        target = dataclasses.replace(target, address=plane.grpc)
        target.wait_until_ready(plane.process, folder / "log")
        with grpc.insecure_channel(plane.grpc) as channel:
            until_measured(Stub(channel), target.model)
        yield target
        if failures := plane.failures():
            raise RuntimeError(f"requests failed: {failures}")

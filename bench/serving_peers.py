"""The peers of bench/serving.py, each in an environment of its own below .cache: MLServer, and Triton's C++ server.

Both serve one ONNX file with ONNX Runtime on one thread and batch dynamically, up to 64 rows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np

from bench.oip_target import Target

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".cache" / "bench-serving"
RUNTIME = ROOT / "bench" / "mlserver_runtime"
TRITON_START = ROOT / os.environ.get("TRITON_START", "../shared/peers/triton/start.sh")
"""Starts Triton in the foreground: start.sh VENV MODEL.onnx FEATURES OUTPUTS; serves model `m`, input `x`."""
TRITON_PORT = 6101
"""Which the script has fixed, for gRPC."""
MLSERVER, TRITON = "mlserver==1.7.1", "nvidia-pytriton==0.5.14"
END_SECONDS = 20


class MissingPeerError(Exception):
    """A peer cannot run here; the message says why."""


def install(name: str, *steps: Sequence[str]) -> Path:
    """The virtual environment `name`, made by one `pip install` for each of `steps` unless it is there already."""
    folder = ENVIRONMENTS / name
    stamp, wanted = folder / "installed.json", json.dumps([list(step) for step in steps])
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing {name} into {folder.relative_to(ROOT)} (once) ...", flush=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    for command in ([sys.executable, "-m", "venv", str(folder)], *([*pip, *step] for step in steps)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingPeerError(f"{' '.join(command[-4:])} failed: {done.stderr.strip()[-300:]}")
    stamp.write_text(wanted)
    return folder


def _onnxruntime() -> str:
    """The version that serves in the project too: the peers must not differ by it."""
    return f"onnxruntime=={metadata.version('onnxruntime')}"


@contextmanager
def mlserver(model: Path, folder: Path) -> Iterator[Target]:
    """MLServer with one process and batching on. Raises MissingPeerError."""
    environment = install("mlserver", [MLSERVER, _onnxruntime()])
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), _free_ports(3), strict=True))
    folder.mkdir(parents=True)
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    served = {
        "name": "m",
        "implementation": "onnx_runtime.OnnxRuntime",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
        "parameters": {"uri": str(model)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(served))
    shutil.copy(RUNTIME / "onnx_runtime.py", folder)
    target = Target(name="MLServer", address=f"127.0.0.1:{ports['grpc_port']}", model="m", tensor="pixels")
    with _process([str(environment / "bin" / "mlserver"), "start", "."], folder, target):
        yield target


@contextmanager
def triton(model: Path, folder: Path, features: int, classes: int) -> Iterator[Target]:
    """Triton with its C++ gRPC front end. Raises MissingPeerError."""
    if not TRITON_START.exists():
        raise MissingPeerError(f"no start script at {os.path.relpath(TRITON_START, ROOT)}; set TRITON_START")
    environment = install("triton", ["--no-deps", TRITON], [_onnxruntime(), "numpy<2"])
    _require_free(TRITON_PORT)
    folder.mkdir(parents=True)
    target = Target(name="Triton", address=f"127.0.0.1:{TRITON_PORT}", model="m", tensor="x", pixels=np.float32)
    command = ["bash", str(TRITON_START.resolve()), str(environment), str(model), str(features), str(classes)]
    with _process(command, folder, target):
        yield target


@contextmanager
def _process(command: Sequence[str], folder: Path, target: Target) -> Iterator[None]:
    """A server in a group of its own, so that its children end with it."""
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            try:
                target.wait_until_ready(process, log)
            except RuntimeError as error:
                raise MissingPeerError(str(error)) from error
            yield
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks the whole group to end, and ends what is left after a while."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(END_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing is left of it
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _require_free(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise MissingPeerError(f"port {port} is taken: {error.strerror}") from error

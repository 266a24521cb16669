"""Starts a real Triton on what `batchyard model export --format triton` wrote and checks its answers.

    python tools/check_triton_export.py VENV REPOSITORY

VENV is a virtual environment that holds nvidia-pytriton (Triton's own server comes with it), onnxruntime and numpy<2.
That Triton has the Python backend alone, so export with `--backend python`. For every model in REPOSITORY: single rows,
batches, and many requests at once must give what ONNX Runtime gives here for 1/model.onnx, and Triton's classification
extension must know the labels. Prints one line for each model; exits 1 where an answer differs.
"""

from __future__ import annotations

import argparse
import functools
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from numpy.typing import NDArray

START_SECONDS = 120.0
REQUESTS = 200
BATCHES = (1, 7, 64)
LARGEST_ERROR = 1e-4
"""Two versions of ONNX Runtime may add up in other orders; as a share of the largest output."""


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("venv", type=Path)
    parser.add_argument("repository", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, server(given.venv, given.repository, Path(scratch)) as address:
        client = triton.InferenceServerClient(address)
        try:
            return max(check(client, folder) for folder in sorted(given.repository.iterdir()))
        finally:
            client.close()


def check(client: Any, folder: Path) -> int:
    """Compares one model's answers; 0 when they are right."""
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    source, result = session.get_inputs()[0], session.get_outputs()[0]
    rows = np.random.default_rng(0).uniform(0, 16, (max(BATCHES), *source.shape[1:])).astype(np.float32)
    (expected,) = session.run(None, {source.name: rows})
    asked = [triton.InferRequestedOutput(result.name)]
    errors = []
    for size in BATCHES:
        answer = client.infer(folder.name, [_tensor(source.name, rows[:size])], outputs=asked)
        errors.append(np.abs(answer.as_numpy(result.name) - expected[:size]).max())
    errors.append(_at_once(client, folder.name, source.name, result.name, rows, expected))
    worst = float(max(errors)) / max(1.0, float(np.abs(expected).max()))
    labels = (folder / "labels.txt").read_text().splitlines()
    known = _labels(client, folder.name, source.name, result.name, rows) == [labels[c] for c in expected.argmax(1)]
    right = worst <= LARGEST_ERROR and known
    requests = f"{len(BATCHES)} batches and {REQUESTS} requests at once"
    print(f"{folder.name}: largest relative error {worst:.2g} over {requests}; labels {'right' if known else 'WRONG'}")
    return 0 if right else 1


def _at_once(
    client: Any, model: str, source: str, result: str, rows: NDArray[np.float32], expected: NDArray[np.float32]
) -> float:
    """The largest error over single rows that Triton may batch as it likes."""
    answers: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
    for number in range(REQUESTS):
        row = number % len(rows)
        tell = functools.partial(_tell, answers, row)
        client.async_infer(model, [_tensor(source, rows[row : row + 1])], callback=tell)
    return max(_error(*answers.get(timeout=START_SECONDS), result, expected) for _ in range(REQUESTS))


def _tell(answers: queue.SimpleQueue[tuple[int, Any, Any]], row: int, result: Any, error: Any) -> None:
    answers.put((row, result, error))


def _error(row: int, answer: Any, failure: Any, result: str, expected: NDArray[np.float32]) -> float:
    if failure is not None:
        raise failure
    return float(np.abs(answer.as_numpy(result)[0] - expected[row]).max())


def _labels(client: Any, model: str, source: str, result: str, rows: NDArray[np.float32]) -> list[str]:
    """The label of each row's largest output, as the classification extension tells it: score:index:label."""
    asked = [triton.InferRequestedOutput(result, class_count=1)]
    answer = client.infer(model, [_tensor(source, rows)], outputs=asked).as_numpy(result)
    return [entry.decode().split(":", 2)[2] for entry in answer.ravel()]


def _tensor(name: str, rows: NDArray[np.float32]) -> Any:
    tensor = triton.InferInput(name, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return tensor


@contextmanager
def server(venv: Path, repository: Path, scratch: Path) -> Iterator[str]:
    """Triton on free ports of this machine; its gRPC address."""
    python = venv.absolute() / "bin" / "python"
    code = "import sysconfig as s; print(s.get_path('purelib'), s.get_config_var('LIBDIR'), s.get_python_version())"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    site, libraries, version = Path(told[0]), told[1], told[2]
    home = site / "pytriton" / "tritonserver"
    backend = scratch / "backends" / "python"
    shutil.copytree(home / "backends" / "python", backend)
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    cuda = next(iter(site.rglob("libcudart*"))).parent
    paths = (cuda, home / "external_libs", home / "lib", libraries)
    ports = free_ports(3)
    flags = [f"--{kind}-port={port}" for kind, port in zip(("grpc", "http", "metrics"), ports, strict=True)]
    models = with_path(repository, scratch / "repository", site)
    command = [str(home / "bin" / "tritonserver"), f"--model-repository={models}", *flags]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, paths))}
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--backend-directory={scratch / 'backends'}"], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"127.0.0.1:{ports[0]}"
        wait_until_ready(address, process, scratch / "log")
        yield address
    finally:
        process.terminate()
        process.wait(60)


def with_path(repository: Path, copy: Path, site: Path) -> Path:
    """A copy of the repository whose model.py finds the packages of VENV: Triton's Python knows none but its own."""
    shutil.copytree(repository, copy)
    for script in copy.glob("*/1/model.py"):
        script.write_text(f"import sys\n\nsys.path.insert(0, {str(site)!r})\n" + script.read_text())
    return copy


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when every model is loaded; ends the program with the log's end when that does not come."""
    deadline = time.monotonic() + START_SECONDS
    client = triton.InferenceServerClient(address)
    try:
        while not _ready(client):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"Triton did not come up:\n{_errors(log)}")
            time.sleep(0.2)
    finally:
        client.close()


def _errors(log: Path) -> str:
    lines = log.read_text().splitlines()
    told = [line for line in lines if line.startswith(("E", "error"))]
    return "\n".join(told or lines[-20:])


def _ready(client: Any) -> bool:
    try:
        return bool(client.is_server_ready())
    except triton.InferenceServerException:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [open_socket.getsockname()[1] for open_socket in sockets]
    finally:
        for open_socket in sockets:
            open_socket.close()


if __name__ == "__main__":
    sys.exit(main())

"""h2load as the client of gRPC benches: one request's body over and over, on so many connections and streams.

h2load is native code and reads neither messages nor statuses. But it counts the bytes of all replies' data: a reply of
a known size is data only when the call succeeded, and a failed call has none. So the count of answers is exact.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.oip import SERVICE_NAME

PATH = f"/{SERVICE_NAME}/ModelInfer"
PREFIX_BYTES = 5
"""Before each gRPC message: whether it is compressed, and its length."""
LONGEST_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many requests are under way at a time."""

    connections: int
    streams: int
    """On each connection."""

    def __str__(self) -> str:
        return f"{self.connections}x{self.streams}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run of h2load saw."""

    sent: int
    answered: int
    """With a message, so with status OK."""
    seconds: float
    begins: NDArray[np.float64]
    """When each request was sent, refused ones too, as time.time() tells it."""
    latencies: NDArray[np.float64]
    """The seconds that each of them took."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    def quantile(self, fraction: float) -> float:
        """Seconds that this fraction of the requests did not exceed."""
        return float(np.quantile(self.latencies, fraction))

    def quantile_between(self, begin: float, end: float, fraction: float) -> float:
        """The same of those that were under way at some time between two moments."""
        meanwhile = (self.begins + self.latencies >= begin) & (self.begins <= end)
        return float(np.quantile(self.latencies[meanwhile], fraction))


def frame(message: bytes) -> bytes:
    """A gRPC message as it travels."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(address: str, body: bytes, reply_bytes: int, shape: Shape, requests: int, rate: float | None = None) -> Outcome:
    """Sends `requests` times the message `body`; every answer has `reply_bytes`.

    `rate`: requests a second to offer, whatever comes back; None: each stream sends again when it is answered.
    Raises RuntimeError when a request got no HTTP answer, or when replies are not what they should be.
    """
    with tempfile.TemporaryDirectory() as temporary:
        file, log = Path(temporary) / "body", Path(temporary) / "log"
        file.write_bytes(frame(body))
        command = ["h2load", "-t", "1", "-n", str(requests), "-c", str(shape.connections), "-m", str(shape.streams)]
        command += ["-d", str(file), "--log-file", str(log)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        if rate is not None:
            command += ["--rps", str(max(1, round(rate / shape.connections)))]
        done = subprocess.run(
            [*command, f"http://{address}{PATH}"], capture_output=True, text=True, check=True, timeout=LONGEST_SECONDS
        )
        return _read(done.stdout, np.loadtxt(log, dtype=np.int64, ndmin=2), reply_bytes + PREFIX_BYTES)


def _read(output: str, log: NDArray[np.int64], answer_bytes: int) -> Outcome:
    """The log's columns: start in microseconds since the epoch, HTTP status, microseconds."""
    data = re.search(r"\((\d+)\) data", output)
    if data is None or (log[:, 1] != 200).any():
        raise RuntimeError(f"a request was not answered:\n{output}")
    answered, rest = divmod(int(data[1]), answer_bytes)
    if rest:
        raise RuntimeError(f"{data[1]} bytes of replies are no multiple of {answer_bytes}:\n{output}")
    begins, latencies = log[:, 0] / 1e6, log[:, 2] / 1e6
    return Outcome(
        sent=len(log),
        answered=answered,
        seconds=float((begins + latencies).max() - begins.min()),
        begins=begins,
        latencies=latencies,
    )

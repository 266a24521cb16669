"""Requests a second of the served MLP under h2load: `python -m bench.serving_smoke [--transport native] [--json FILE]`.

The quick look of bench/serving.py: one inference plane with everything on and no peers, 4 connections x 16 streams, one
FP32 row of 784 values in each request. Takes about 15 seconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from batchyard.artifact.manifest import ONNX_MODEL
from bench import inference_plane, report
from bench.contest import Cell, Contest
from bench.h2load import Shape
from bench.oip_target import Target
from bench.small_artifact import SmallNetwork, publish

BAR = 15_000.0
NETWORK = SmallNetwork(row_shape=(784,))
SHAPE = Shape(connections=4, streams=16)
PACKAGES = ("grpcio", "numpy", "onnxruntime", "protobuf", "pygrpc-native")


def measure(folder: Path, cell: Cell, rounds: int, transport: str) -> list[float]:
    """Answers a second in each round."""
    sha256 = publish(folder / "artifact", NETWORK)
    ours = Target(name="ours", model="mnist", tensor="pixels")
    plane = inference_plane.serving(folder / "plane", ours, folder / "artifact", sha256, "--transport", transport)
    with plane as target:
        rate = Contest(folder / "artifact" / ONNX_MODEL, NETWORK.pixels(max(32, cell.rows))).rate(cell, target)
        return [rate() for _ in range(rounds)]


def main() -> None:
    """Prints a table and writes the JSON."""
    parser = report.arguments(__doc__, "serving_smoke", rounds=5)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--rows", type=int, default=1)
    given = parser.parse_args()
    cell = Cell(shape=SHAPE, rows=given.rows)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder), cell, given.rounds, given.transport)
    name = f"MLP 784-100-100-100-10, {cell}, {given.transport}"
    row = report.compare(name, {"ours": rates, "bar": [BAR] * len(rates)}, "ours", "bar", unit="requests/s", bar=1.0)
    report.publish("serving_smoke", [row], PACKAGES, given.json)


if __name__ == "__main__":
    main()

"""Generates the committed protobuf code from proto/.

`python tools/generate_protos.py` writes it; `--check` regenerates into a temporary folder, compares, and exits 1 naming
the files that differ.

batchyard.v1 becomes ordinary `_pb2` modules. The Open Inference Protocol becomes a descriptor set, which batchyard.oip
loads into a DescriptorPool of its own, so that tritonclient's copy of the same symbols can live in the same process.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
WELL_KNOWN = str(resources.files("grpc_tools") / "_proto")
PUBLIC = [
    f"batchyard/v1/{name}.proto"
    for name in (
        "spec",
        "training",
        "serving",
        "exchange",
        "recalibration",
        "models",
        "shift",
        "shadow",
        "traffic",
        "queue",
        "lineage",
    )
]
CONTRACT = "inference/open_inference.proto"


SCRIPTS = Path(sys.executable).parent


def run(*arguments: str) -> None:
    """Runs protoc with mypy-protobuf's plugins of this environment, or ends the program with its status."""
    plugins = [f"--plugin=protoc-gen-{name}={SCRIPTS / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    status = protoc.main(["protoc", f"-I{PROTO}", f"-I{WELL_KNOWN}", *plugins, *arguments])
    if status:
        sys.exit(f"protoc failed with status {status}: {' '.join(arguments)}")


def generate(out: Path) -> list[Path]:
    """Writes everything below `out`; returns the written files, relative to it."""
    run(f"--python_out={out}", f"--mypy_out=quiet:{out}", *PUBLIC)
    services = [name for name in PUBLIC if "service " in (PROTO / name).read_text()]
    run(f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services)
    oip = out / "batchyard" / "oip"
    oip.mkdir(parents=True, exist_ok=True)
    run(f"--descriptor_set_out={oip / 'open_inference.binpb'}", CONTRACT)
    with tempfile.TemporaryDirectory() as scratch:
        run(f"--mypy_out=quiet:{scratch}", CONTRACT)
        shutil.move(f"{scratch}/inference/open_inference_pb2.pyi", oip / "messages.pyi")
    return sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        files = generate(out)
        if arguments.check:
            stale = [
                f for f in files if not (PROTO / f).is_file() or not filecmp.cmp(out / f, PROTO / f, shallow=False)
            ]
            if stale:
                sys.exit(
                    f"generated code is stale: {', '.join(map(str, stale))}; run `make proto` and commit the result"
                )
            return
        for file in files:
            shutil.copyfile(out / file, PROTO / file)
            print(f"wrote proto/{file}")


if __name__ == "__main__":
    main()

"""The engines by name: which can run here, in which version, and how to open one. Imports none of their libraries."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from batchyard.serving.engines.interface import Engine, EngineError, Network
from batchyard.serving.engines.precision import Precision

NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""What NVIDIA's driver shows on Linux, and on Linux inside Windows."""
NVIDIA_CARDS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where an engine lives and what it needs."""

    module: str
    libraries: tuple[str, ...]
    """Their import names; those of the packages on PyPI are the same, or have `-gpu` behind them."""
    opener: str = "open_engine"
    """What its module calls the way in."""
    cuda: bool = False
    """Whether it computes on an NVIDIA GPU: the number of threads then means nothing."""
    precision: Precision = "fp32"
    """What it computes in."""
    shared_threads: bool = False
    """Whether its threads belong to the process and compute for every network that it opens (engines/pools.py)."""


CATALOGUE = {
    "onnxruntime": Entry(module="onnxruntime_engine", libraries=("onnxruntime",)),
    "openvino": Entry(module="openvino_engine", libraries=("openvino",), shared_threads=True),
    "torch": Entry(module="torch_engine", libraries=("torch", "onnx")),
    "torch-cuda": Entry(module="torch_cuda_engine", libraries=("torch", "onnx"), cuda=True),
    "onnxruntime-cuda": Entry(
        module="onnxruntime_cuda_engine", libraries=("onnxruntime",), opener="open_cuda", cuda=True
    ),
    "tensorrt": Entry(module="onnxruntime_cuda_engine", libraries=("onnxruntime",), opener="open_tensorrt", cuda=True),
    "openvino-bf16": Entry(
        module="openvino_engine", libraries=("openvino",), opener="open_bf16", precision="bf16", shared_threads=True
    ),
    "torch-cuda-bf16": Entry(
        module="torch_cuda_engine", libraries=("torch", "onnx"), opener="open_bf16", cuda=True, precision="bf16"
    ),
}
ENGINE_NAMES = tuple(name for name, entry in CATALOGUE.items() if not entry.cuda and entry.precision == "fp32")
"""Those that any machine can run."""


def allowed(names: Collection[str], precision: Precision) -> tuple[str, ...]:
    """The engines among these that may serve a model of this precision, in their order."""
    return tuple(name for name in names if CATALOGUE[name].precision in ("fp32", precision))


def open_engine(name: str, network: Network, threads: int) -> Engine:
    """Imports the engine's library and loads the network. Raises EngineError."""
    if reason := why_not_here(name):
        raise EngineError(reason)
    entry = CATALOGUE[name]
    try:
        module: Any = importlib.import_module(f"batchyard.serving.engines.{entry.module}")
    except (ImportError, OSError) as error:
        raise EngineError(f"the library of {name} cannot be imported: {error}") from error
    engine: Engine = getattr(module, entry.opener)(network, threads)
    return engine


def why_not_here(name: str) -> str:
    """Why this machine cannot run the engine, as far as that shows without its libraries; empty: it may."""
    if missing := missing_libraries(name):
        return f"not installed: {', '.join(missing)}"
    if CATALOGUE[name].cuda and not any(device.exists() for device in NVIDIA_DEVICES):
        return "needs an NVIDIA GPU and its driver; this machine shows none"
    return ""


def missing_libraries(name: str) -> list[str]:
    """What the engine needs and this installation lacks."""
    return [library for library in CATALOGUE[name].libraries if importlib.util.find_spec(library) is None]


def thread_counts(name: str, cores: int) -> list[int]:
    """With how many threads an engine is worth trying."""
    return [1] if CATALOGUE[name].cuda else sorted({1, cores})


def on_gpu(names: Collection[str]) -> bool:
    """Whether one of these engines computes on a GPU."""
    return any(CATALOGUE[name].cuda for name in names)


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Library -> its version, "" where it is missing, of the engines with these names."""
    libraries = sorted({library for name in names for library in CATALOGUE[name].libraries})
    return {library: _version(library) for library in libraries}


def gpus() -> list[str]:
    """The GPUs' names as NVIDIA's driver tells them; empty where it tells of none."""
    told = (line for file in sorted(NVIDIA_CARDS.glob("*/information")) for line in file.read_text().splitlines())
    return [line.partition(":")[2].strip() for line in told if line.startswith("Model:")]


def _version(library: str) -> str:
    for package in (library, f"{library}-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""

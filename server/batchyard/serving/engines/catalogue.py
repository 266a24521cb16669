"""The engines by name: which are installed, in which version, and how to open one. Imports none of their libraries."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from batchyard.serving.engines.interface import Engine, EngineError, Network


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where an engine lives and what it needs."""

    module: str
    libraries: tuple[str, ...]
    """Their import names; those of the packages on PyPI are the same."""


CATALOGUE = {
    "onnxruntime": Entry(module="onnxruntime_engine", libraries=("onnxruntime",)),
    "openvino": Entry(module="openvino_engine", libraries=("openvino",)),
    "torch": Entry(module="torch_engine", libraries=("torch", "onnx")),
}
ENGINE_NAMES = tuple(CATALOGUE)


def open_engine(name: str, network: Network, threads: int) -> Engine:
    """Imports the engine's library and loads the network. Raises EngineError."""
    if missing := missing_libraries(name):
        raise EngineError(f"not installed: {', '.join(missing)}")
    try:
        module: Any = importlib.import_module(f"batchyard.serving.engines.{CATALOGUE[name].module}")
    except (ImportError, OSError) as error:
        raise EngineError(f"the library of {name} cannot be imported: {error}") from error
    engine: Engine = module.open_engine(network, threads)
    return engine


def missing_libraries(name: str) -> list[str]:
    """What the engine needs and this installation lacks."""
    return [library for library in CATALOGUE[name].libraries if importlib.util.find_spec(library) is None]


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Library -> its version, "" where it is missing, of the engines with these names."""
    libraries = sorted({library for name in names for library in CATALOGUE[name].libraries})
    return {library: _version(library) for library in libraries}


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""

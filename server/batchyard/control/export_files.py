"""What an exported version consists of, format by format: texts made here, and the files of a verified artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from batchyard.artifact.manifest import ONNX_MODEL, Manifest
from batchyard.control import triton
from batchyard.control.records import ModelVersion

Content = bytes | Path
"""A text, or the file that holds it."""
TORCH_PROGRAM = "model.pt2"


def onnx(version: ModelVersion, artifact: Path) -> dict[str, Content]:
    """The graph, its description for programs and for people. Path below the target folder -> content."""
    use = f"""    import numpy, onnxruntime
    session = onnxruntime.InferenceSession("{ONNX_MODEL}")
    (outputs,) = session.run(None, {{"{version.manifest.inputs[0].name}": samples.astype(numpy.float32)}})
"""
    return {ONNX_MODEL: artifact / ONNX_MODEL, **_descriptions(version, ONNX_MODEL, use)}


def torch_export(version: ModelVersion, program: Path) -> dict[str, Content]:
    """The torch.export program and its descriptions."""
    use = f"""    import torch
    network = torch.export.load("{TORCH_PROGRAM}").module()
    outputs = network(samples)  # FP32, any batch
"""
    return {TORCH_PROGRAM: program, **_descriptions(version, TORCH_PROGRAM, use)}


def triton_repository(version: ModelVersion, artifact: Path, backend: str) -> dict[str, Content]:
    """A Triton model repository with the one model. `backend`: onnxruntime or python."""
    files: dict[str, Content] = {
        "config.pbtxt": triton.config(version.model, version.manifest, backend).encode(),
        triton.LABELS: "".join(f"{_one_line(name)}\n" for name in version.manifest.classes).encode(),
        f"1/{ONNX_MODEL}": artifact / ONNX_MODEL,
    }
    if backend == triton.PYTHON:
        files["1/model.py"] = triton.MODEL_PY.encode()
    return {f"{version.model}/{path}": content for path, content in files.items()}


def description(version: ModelVersion) -> Mapping[str, object]:
    """model.json: what a program needs to use the network, and where it comes from."""
    manifest = version.manifest
    return {
        "model": version.model,
        "version": version.number,
        "inputs": [{**vars(signature), "shape": list(signature.shape)} for signature in manifest.inputs],
        "outputs": [{**vars(signature), "shape": list(signature.shape)} for signature in manifest.outputs],
        "classes": list(manifest.classes),
        "origin": manifest.origin,
        "job": manifest.job,
        "certificate": vars(manifest.certificate),
        "manifest_sha256": version.manifest_sha256,
        "files": dict(manifest.files),
    }


def _descriptions(version: ModelVersion, file: str, use: str) -> dict[str, Content]:
    text = json.dumps(description(version), indent=2) + "\n"
    return {"model.json": text.encode(), "README.md": _readme(version, file, use).encode()}


def _readme(version: ModelVersion, file: str, use: str) -> str:
    manifest = version.manifest
    return f"""# {version.model}, version {version.number}

`{file}` is the folded network: its batch normalisations are part of its other layers. On {manifest.certificate.samples}
samples it is within {manifest.certificate.bound:.3g} of the unfolded network in double precision.

{_tensors("input", manifest)}
{_tensors("output", manifest)}
- classes, in the order of the output: {", ".join(map(_one_line, manifest.classes))}

Input normalisation, where the network has one, is inside: feed it what the unfolded network was fed.

{use}
`model.json` says the same for programs.
"""


def _tensors(kind: str, manifest: Manifest) -> str:
    found = manifest.inputs if kind == "input" else manifest.outputs
    return "\n".join(f"- {kind} `{s.name}`: {s.datatype} {['batch', *s.shape[1:]]}" for s in found).replace("'", "")


def _one_line(name: str) -> str:
    return " ".join(name.split())

"""The texts of a Triton model repository (triton-inference-server, model_configuration.md)."""

from __future__ import annotations

from batchyard.artifact.manifest import ONNX_MODEL, Manifest, Signature

LABELS = "labels.txt"
ONNX_RUNTIME, PYTHON = "onnxruntime", "python"
MAX_BATCH = 64
QUEUE_DELAY_MICROSECONDS = 500


def config(name: str, manifest: Manifest, backend: str) -> str:
    """config.pbtxt of a classifier: batched dynamically, its labels beside it."""
    file = "" if backend == PYTHON else f'default_model_filename: "{ONNX_MODEL}"\n'
    return f"""name: "{name}"
backend: "{backend}"
{file}max_batch_size: {MAX_BATCH}
input [{_tensor(manifest.inputs[0])}]
output [{_tensor(manifest.outputs[0], f' label_filename: "{LABELS}"')}]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS} }}
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


def _tensor(signature: Signature, more: str = "") -> str:
    dims = ", ".join(str(size) for size in signature.shape[1:])
    name = signature.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{ name: "{name}" data_type: TYPE_{signature.datatype} dims: [{dims}]{more} }}'


MODEL_PY = '''"""Runs model.onnx by ONNX Runtime in Triton's Python backend: install onnxruntime and numpy."""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.input = config["input"][0]["name"]
        self.output = config["output"][0]["name"]
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        (whole,) = self.session.run([self.output], {self.input: np.concatenate(parts)})
        replies, start = [], 0
        for part in parts:
            rows = whole[start : start + len(part)]
            start += len(part)
            replies.append(pb_utils.InferenceResponse([pb_utils.Tensor(self.output, rows)]))
        return replies
'''
"""1/model.py of the Python backend: names and paths come from Triton, so that it suits every exported model."""

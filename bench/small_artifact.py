"""A published model made without training or torch: a random network with the paper's shape, its certificate by NumPy.

Serving is measured and tested with it. The network: pixels/255, three sigmoid layers of 100, ten logits (section 4.1).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from batchyard.artifact import writer
from batchyard.artifact.manifest import (
    ONNX_MODEL,
    SAMPLES,
    CertificateRecord,
    Evaluated,
    Manifest,
    Signature,
)

BOUND = 1e-3
SAMPLE_COUNT = 32


@dataclass(frozen=True, kw_only=True)
class SmallNetwork:
    """Random weights; `seed` tells one version from another."""

    seed: int = 0
    row_shape: tuple[int, ...] = (1, 28, 28)
    hidden: tuple[int, ...] = (100, 100, 100)
    classes: int = 10

    def weights(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(matrix [inputs, outputs], bias [outputs]) of each layer."""
        random = np.random.default_rng(self.seed)
        sizes = (int(np.prod(self.row_shape)), *self.hidden, self.classes)
        return [
            (
                (random.standard_normal((before, after)) / np.sqrt(before) * 4).astype(np.float32),
                random.standard_normal(after).astype(np.float32),
            )
            for before, after in itertools.pairwise(sizes)
        ]

    def oracle(self, pixels: NDArray[np.generic]) -> NDArray[np.float64]:
        """Logits in fp64: [n, ...] raw pixels -> [n, classes]."""
        values = pixels.reshape(len(pixels), -1).astype(np.float64) / 255
        *hidden, (matrix, bias) = self.weights()
        for inner_matrix, inner_bias in hidden:
            values = 1 / (1 + np.exp(-(values @ inner_matrix.astype(np.float64) + inner_bias)))
        return np.asarray(values @ matrix.astype(np.float64) + bias, np.float64)

    def onnx_model(self) -> bytes:
        """The same as an ONNX graph: pixels [N, *row_shape] -> logits [N, classes]."""
        nodes = [
            helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
            helper.make_node("Mul", ["flat", "scale"], ["values0"]),
        ]
        constants = [numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")]
        layers = self.weights()
        for index, (matrix, bias) in enumerate(layers):
            constants += [
                numpy_helper.from_array(matrix, f"w{index}"),
                numpy_helper.from_array(bias, f"b{index}"),
            ]
            last = index == len(layers) - 1
            linear = "logits" if last else f"linear{index}"
            nodes.append(helper.make_node("Gemm", [f"values{index}", f"w{index}", f"b{index}"], [linear]))
            if not last:
                nodes.append(helper.make_node("Sigmoid", [linear], [f"values{index + 1}"]))
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *self.row_shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", self.classes])],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def pixels(self, rows: int, seed: int = 1) -> NDArray[np.uint8]:
        """Random raw pixels [rows, *row_shape]."""
        return np.random.default_rng(seed).integers(0, 256, (rows, *self.row_shape), np.uint8)


def publish(uri: Path, network: SmallNetwork, model: str = "mnist", passed: bool = True, bound: float = BOUND) -> str:
    """Writes the artifact of `network` to the folder `uri` and returns its manifest's sha256."""
    inputs = network.pixels(SAMPLE_COUNT, seed=2).astype(np.float32)
    outputs = network.oracle(inputs)
    files = {ONNX_MODEL: network.onnx_model(), SAMPLES: save({"inputs": inputs, "outputs": outputs})}
    return writer.write(str(uri), manifest_of(network, model, passed, bound), files)


def manifest_of(network: SmallNetwork, model: str, passed: bool = True, bound: float = BOUND) -> Manifest:
    """A manifest that tells the truth about the graph and makes up the training."""
    return Manifest(
        model=model,
        job=f"job-{network.seed}",
        attempt=1,
        created=0.0,
        spec={"model": {"architecture": "mlp"}},
        seed=network.seed,
        libraries={},
        dataset="none",
        dataset_sha256="0" * 64,
        classes=class_names(network.classes),
        parameter_count=sum(matrix.size + bias.size for matrix, bias in network.weights()),
        inputs=(Signature(name="pixels", datatype="FP32", shape=(-1, *network.row_shape)),),
        outputs=(Signature(name="logits", datatype="FP32", shape=(-1, network.classes)),),
        population_statistics="alg2",
        fold_report=(),
        certificate=CertificateRecord(passed=passed, max_error=0.0, bound=bound, samples=SAMPLE_COUNT, digest="0" * 64),
        evaluated=Evaluated(accuracy=0.1, loss=2.3, samples=SAMPLE_COUNT),
    )


def class_names(count: int) -> tuple[str, ...]:
    """Names that are not just the index."""
    return tuple(f"class-{index}" for index in range(count))

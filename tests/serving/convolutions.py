"""A small convolutional network as a published model, its certificate by NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.small_artifact import SmallNetwork

CHANNELS = (8, 16)


@dataclass(frozen=True, kw_only=True)
class SmallConvolutions(SmallNetwork):
    """pixels/255, twice (3x3 convolution without a border, ReLU), the mean over the image, ten logits."""

    row_shape: tuple[int, ...] = (1, 16, 16)

    def kernels(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(weight [out, in, 3, 3], bias [out]) of the two convolutions."""
        random = np.random.default_rng(self.seed)
        sizes = zip((self.row_shape[0], *CHANNELS), CHANNELS, strict=False)
        return [
            (random.standard_normal((after, before, 3, 3), np.float32), random.standard_normal(after, np.float32))
            for before, after in sizes
        ]

    def last(self) -> NDArray[np.float32]:
        """[channels, classes]."""
        return np.random.default_rng(self.seed + 1).standard_normal((CHANNELS[-1], self.classes), np.float32)

    def oracle(self, pixels: NDArray[np.generic]) -> NDArray[np.float64]:
        """Logits in fp64: [n, *row_shape] raw pixels -> [n, classes]."""
        values = pixels.astype(np.float64) / 255
        for weight, bias in self.kernels():
            windows = sliding_window_view(values, (3, 3), axis=(2, 3))  # [n, in, h, w, 3, 3]
            values = np.einsum("nihwyx,oiyx->nohw", windows, weight.astype(np.float64)) + bias[:, None, None]
            values = np.maximum(values, 0)
        return np.asarray(values.mean(axis=(2, 3)) @ self.last().astype(np.float64), np.float64)

    def onnx_model(self) -> bytes:
        """The same as an ONNX graph."""
        nodes = [helper.make_node("Mul", ["pixels", "scale"], ["values0"])]
        constants = [numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")]
        for index, (weight, bias) in enumerate(self.kernels()):
            constants += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
            nodes.append(helper.make_node("Conv", [f"values{index}", f"w{index}", f"b{index}"], [f"conv{index}"]))
            nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"values{index + 1}"]))
        constants.append(numpy_helper.from_array(self.last(), "last"))
        nodes.append(helper.make_node("GlobalAveragePool", [f"values{len(CHANNELS)}"], ["mean"]))
        nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], axis=1))
        nodes.append(helper.make_node("MatMul", ["flat", "last"], ["logits"]))
        return model_of(nodes, self.row_shape, self.classes, constants)


def model_of(
    nodes: list[onnx.NodeProto],
    row_shape: tuple[int, ...],
    outputs: int | tuple[int, ...],
    constants: list[TensorProto],
) -> bytes:
    """An ONNX model: pixels [N, *row_shape] -> logits [N, *outputs]."""
    shape = outputs if isinstance(outputs, tuple) else (outputs,)
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *row_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *shape])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())

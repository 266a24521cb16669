"""Each engine computes the network that was certified."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from batchyard.artifact.manifest import Signature
from batchyard.serving.engines.catalogue import ENGINE_NAMES, open_engine
from batchyard.serving.engines.chosen import EngineByBatch
from batchyard.serving.engines.interface import EngineError, Network
from bench.small_artifact import SmallNetwork
from tests.serving.convolutions import SmallConvolutions, model_of
from tests.serving.harness import TIGHT

NETWORKS = {"mlp": SmallNetwork(seed=1), "convolutions": SmallConvolutions(seed=1)}


def network_in(folder: Path, model: bytes, row_shape: tuple[int, ...], outputs: tuple[int, ...] = (10,)) -> Network:
    path = folder / "model.onnx"
    path.write_bytes(model)
    return Network(
        model=path,
        source=Signature(name="pixels", datatype="FP32", shape=(-1, *row_shape)),
        result=Signature(name="logits", datatype="FP32", shape=(-1, *outputs)),
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_an_engine_answers_what_fp64_answers_for_any_batch(
    engine: str, kind: str, threads: int, tmp_path: Path
) -> None:
    model = NETWORKS[kind]
    opened = open_engine(engine, network_in(tmp_path, model.onnx_model(), model.row_shape), threads)
    batches = [model.pixels(rows, seed=rows).astype(np.float32) for rows in (1, 7, 2, 33)]
    answers = [opened.run(pixels) for pixels in batches]
    for answer, pixels in zip(answers, batches, strict=True):  # all at the end: no run may change an earlier answer
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, model.oracle(pixels), atol=TIGHT, rtol=0)
    opened.close()


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_graph_that_is_not_what_the_manifest_promises_is_refused(engine: str, tmp_path: Path) -> None:
    network = network_in(tmp_path, SmallNetwork().onnx_model(), (1, 8, 8))
    with pytest.raises(EngineError, match=r"input 'pixels' is \(-1, 1, 28, 28\), in the manifest \(-1, 1, 8, 8\)"):
        open_engine(engine, network, 1)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_damaged_graph_is_refused_in_one_line(engine: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot load model\.onnx: ") as refused:
        open_engine(engine, network_in(tmp_path, b"no graph", (1, 28, 28)), 1)
    assert "\n" not in str(refused.value)


OPERATORS: dict[str, tuple[str, dict[str, Any], list[NDArray[Any]]]] = {
    "a strided, grouped convolution with unequal borders": (
        "Conv",
        {"strides": [2, 1], "pads": [1, 0, 2, 1], "group": 2, "dilations": [1, 2]},
        [np.linspace(-1, 1, 4 * 2 * 9, dtype=np.float32).reshape(4, 2, 3, 3), np.ones(4, np.float32)],
    ),
    "max pooling with a border": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    "max pooling that rounds up": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, []),
    "average pooling without its border": ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, []),
    "average pooling with its border": (
        "AveragePool",
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        [],
    ),
    "the mean over two axes": ("ReduceMean", {"keepdims": 0}, [np.array([2, 3])]),
    "a transposition": ("Transpose", {"perm": [0, 2, 3, 1]}, []),
    "a reshape that keeps the batch": ("Reshape", {}, [np.array([0, -1, 3])]),
    "new axes": ("Unsqueeze", {}, [np.array([-1, 1])]),
    "clipping": ("Clip", {}, [np.array(-0.2, np.float32), np.array(0.7, np.float32)]),
    "a normalisation that was not folded": (
        "BatchNormalization",
        {"epsilon": 0.1},
        [np.arange(1, 5, dtype=np.float32) * scale for scale in (1, -2, 0.5, 3)],
    ),
    "softmax over channels": ("Softmax", {"axis": 1}, []),
    "leaky ReLU": ("LeakyRelu", {"alpha": 0.3}, []),
    "ELU": ("Elu", {}, []),
    "nothing": ("Identity", {}, []),
    "hard sigmoid": ("HardSigmoid", {"alpha": 0.1, "beta": 0.4}, []),
    "hard swish": ("HardSwish", {}, []),
    "error function": ("Erf", {}, []),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_torch_computes_an_operator_as_onnxruntime_does(name: str, tmp_path: Path) -> None:
    kind, attributes, constants = OPERATORS[name]
    names = [f"constant{index}" for index in range(len(constants))]
    node = helper.make_node(kind, ["pixels", *names], ["logits"], **attributes)
    pixels = np.random.default_rng(0).standard_normal((2, 4, 9, 9), np.float32)
    stored = [numpy_helper.from_array(value, at) for at, value in zip(names, constants, strict=True)]
    shape = shape_after(node, pixels.shape, stored)
    network = network_in(tmp_path, model_of([node], pixels.shape[1:], shape[1:], stored), pixels.shape[1:], shape[1:])
    expected, answer = (open_engine(engine, network, 1).run(pixels) for engine in ("onnxruntime", "torch"))
    assert answer.shape == expected.shape == shape
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def shape_after(node: Any, shape: tuple[int, ...], constants: list[Any]) -> tuple[int, ...]:
    """By ONNX's own shape inference."""
    from onnx import TensorProto, shape_inference

    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return tuple(size.dim_value for size in inferred.graph.output[0].type.tensor_type.shape.dim)


def test_torch_names_the_operators_that_it_does_not_know(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softplus", ["pixels"], ["soft"]), helper.make_node("Det", ["soft"], ["logits"])]
    network = network_in(tmp_path, model_of(nodes, (3, 3), (), []), (3, 3), ())
    with pytest.raises(EngineError, match="no operator for the graph's Det, Softplus"):
        open_engine("torch", network, 1)


def test_each_batch_goes_to_the_engine_of_its_size(tmp_path: Path) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name, self.closed = name, False
            self.rows: list[int] = []

        def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
            self.rows.append(len(rows))
            return rows

        def close(self) -> None:
            self.closed = True

    small, large = Named("small"), Named("large")
    both = EngineByBatch([(4, small), (16, large)])
    for rows in (1, 4, 5, 16, 17):
        both.run(np.zeros((rows, 1), np.float32))
    both.close()
    assert (both.name, small.rows, large.rows) == ("small+large", [1, 4], [5, 16, 17])
    assert small.closed
    assert large.closed


def test_openvino_is_opened_without_what_reports_to_the_web() -> None:
    code = "import batchyard.serving.engines.openvino_engine, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = loaded.stdout.split()
    assert "openvino" in modules
    assert not [name for name, part in itertools.product(modules, ("telemetry", "tools.ovc")) if part in name]

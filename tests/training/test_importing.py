"""What networks from elsewhere are told when they do not fit, and how ONNX operators become layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from batchyard.artifact.reader import read_samples, verify
from batchyard.training import importing, onnx_network
from batchyard.training.ensemble import Ensemble
from batchyard.training.events import TrainingError
from batchyard.training.network import rebuild
from batchyard.training.spec import SpecError

MLP: dict[str, Any] = {
    "model": {"architecture": "mlp", "hidden": [5], "activation": "relu", "norm": "batch"},
    "input": {"shape": [1, 2, 3]},
    "classes": ["a", "b", "c"],
}
Array = NDArray[np.float32]


def a_state() -> dict[str, Tensor]:
    """A state_dict that fits MLP."""
    torch.manual_seed(1)
    layers = {"linear1": nn.Linear(6, 5, bias=False), "norm1": nn.BatchNorm1d(5), "logits": nn.Linear(5, 3)}
    network = nn.ModuleDict(layers)
    return {name: value.clone() for name, value in network.state_dict().items()}


def violations(folder: Path, network: dict[str, Any]) -> dict[str, str]:
    """What the import of the files in `folder` is told is wrong."""
    with pytest.raises(SpecError) as caught:
        importing.work({"model": "m", "network": network, "artifact_uri": str(folder / "artifact")}, folder)
    assert not (folder / "artifact").exists()
    return {violation.field: violation.description for violation in caught.value.violations}


def _without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def _with(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("norm1.running_var"), "missing: norm1.running_var"),
        (_with("linear2.weight", torch.ones(1)), "not of this architecture: linear2.weight"),
        (_with("logits.bias", torch.ones(4)), "logits.bias is [4], expected [3]"),
        (_with("norm1.bias", torch.full((5,), torch.nan)), "norm1.bias holds numbers that are not finite"),
        (_with("norm1.running_var", -torch.ones(5)), "norm1.running_var holds negative variances"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    state = a_state()
    change(state)
    save_file(state, tmp_path / "weights")
    assert words in violations(tmp_path, MLP)["weights"]


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\x80\x04K\x01.")
    assert "not a safetensors file" in violations(tmp_path, MLP)["weights"]


def test_a_description_is_told_everything_that_is_wrong_with_it(tmp_path: Path) -> None:
    save_file(a_state(), tmp_path / "weights")
    wrong = {"model": {"architecture": "mpl"}, "input": {"shape": [6]}, "classes": ["a", "a"]}
    found = violations(tmp_path, wrong)
    assert set(found) == {"network.model.architecture", "network.input.shape", "network.classes"}
    assert "did you mean 'mlp'?" in found["network.model.architecture"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"inputs": np.zeros((2, 1, 3, 2))}, "inputs are float64 [2, 1, 3, 2]; expected numbers of shape"),
        ({"x": np.zeros((2, 1, 2, 3))}, "expected 'inputs'"),
        ({"inputs": np.zeros((2, 1, 2, 3)), "labels": np.array([0, 3])}, "labels are 0 to 3; expected 0 to 2"),
        ({"inputs": np.full((2, 1, 2, 3), np.inf)}, "not finite"),
        ({"inputs": np.array([{}])}, "not an NPZ file of plain arrays"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    save_file(a_state(), tmp_path / "weights")
    with (tmp_path / "samples").open("wb") as file:
        np.savez(file, **arrays)
    assert words in violations(tmp_path, MLP)["samples"]


def test_a_network_that_decides_for_nothing_is_not_certified(tmp_path: Path) -> None:
    state = a_state()
    state["logits.weight"], state["logits.bias"] = torch.zeros(3, 5), torch.zeros(3)
    save_file(state, tmp_path / "weights")
    order = {"model": "m", "network": MLP, "artifact_uri": str(tmp_path / "artifact")}
    with pytest.raises(TrainingError, match="decides for no class on any of 256 generated samples"):
        importing.work(order, tmp_path)


def test_an_imported_artifact_rebuilds_the_network(tmp_path: Path) -> None:
    state = {f"module.{name}": value.half() for name, value in a_state().items()}  # of DistributedDataParallel
    save_file(state, tmp_path / "weights")
    order = {"model": "m", "network": MLP, "artifact_uri": str(tmp_path / "artifact")}
    digest = importing.work(order, tmp_path)["manifest_sha256"]
    manifest = verify(tmp_path / "artifact", digest)
    assert (manifest.origin, manifest.certificate_samples, manifest.evaluated.samples) == ("imported", "generated", 0)
    assert [(entry.layer, entry.status, entry.into) for entry in manifest.fold_report] == [
        ("norm1", "folded", "linear1")
    ]
    samples = read_samples(tmp_path / "artifact")
    with torch.no_grad():
        logits = rebuild(tmp_path / "artifact", manifest)(torch.tensor(samples.inputs)).numpy()
    assert np.abs(logits - samples.outputs).max() < 1e-5


def a_graph(nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: list[Any], classes: Any = 2) -> bytes:
    """An ONNX model from `x` [N, *shape] to `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


RANDOM = np.random.default_rng(0)
HEAD = [node("GlobalAveragePool", "h", "g"), node("Flatten", "g", "f"), node("Gemm", "f w b", "y", transB=1)]
HEAD_WEIGHTS = {"w": RANDOM.standard_normal((2, 3)).astype("f"), "b": np.array([0.1, -0.2], "f")}


def f32(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


BODIES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "padded strided grouped convolution": (
        [node("Conv", "x k", "h", pads=[1, 0, 1, 0], strides=[2, 1], group=3)],
        {"k": f32(3, 1, 3, 3)},
    ),
    "batch normalisation": (
        [node("BatchNormalization", "x s o m v", "n", epsilon=1e-3), node("Relu", "n", "h")],
        {"s": f32(3), "o": f32(3), "m": f32(3), "v": np.array([0.5, 1, 2], "f")},
    ),
    "clip, pooling and arithmetic with constants": (
        [
            node("Sub", "x c", "a"), node("Mul", "d a", "e"), node("Clip", "e low high", "q"),
            node("MaxPool", "q", "r", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
            node("AveragePool", "r", "h", kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
        ],
        {"c": f32(1, 3, 1, 1), "d": np.float32(2), "low": np.float32(-1), "high": np.float32(1.5)},
    ),
    "concatenation of activations, then a convolution": (
        [
            node("LeakyRelu", "x", "a", alpha=0.2), node("HardSwish", "x", "e"), node("Elu", "x", "i"),
            node("Concat", "a e i", "j", axis=1), node("Conv", "j k", "h"),
        ],
        {"k": f32(3, 9, 1, 1)},
    ),
    "dropout, identity and what constants compute": (
        [
            node("Dropout", "x", "a"), node("Add", "c c", "e"), node("Pow", "e two", "i"), node("Div", "a i", "j"),
            node("Identity", "j", "h"),
        ],
        {"c": np.abs(f32(1, 3, 1, 1)) + 1, "two": np.float32(2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_operators_compute_what_onnx_runtime_computes(name: str) -> None:
    nodes, constants = BODIES[name]
    content = a_graph([*nodes, *HEAD], {**constants, **HEAD_WEIGHTS}, [3, 7, 8])
    found = onnx_network.read(content)
    x = f32(4, 3, 7, 8)
    (expected,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    with torch.no_grad():
        assert np.abs(found.module(torch.from_numpy(x)).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Sin", "x", "y")], "operator Sin is not known; those that are: Abs, Add"),
        ([node("Gemm", "x x", "y", transB=1)], "Gemm 'y': its weight is computed in the graph"),
        ([node("ReduceMean", "x", "y", axes=[0])], "expected some, and not the batch"),
        ([node("Transpose", "x", "y", perm=[1, 0])], "it moves the batch"),
    ],
)
def test_an_operator_that_is_not_understood_is_named(nodes: list[onnx.NodeProto], words: str) -> None:
    with pytest.raises(SpecError, match=words.replace("(", r"\(")):
        onnx_network.read(a_graph(nodes, {}, [2]))


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(SpecError, match="onnx: not a whole ONNX model"):
        onnx_network.read(b"\x08\x01 no model")


def test_an_ensemble_is_the_mean_of_softmax_even_where_probabilities_underflow() -> None:
    torch.manual_seed(0)
    members = [nn.Linear(4, 3).double() for _ in range(6)]
    x = torch.randn(5, 4).double()
    mean = torch.stack([member(x).softmax(1) for member in members]).mean(0)
    assert torch.allclose(Ensemble(members)(x).softmax(1), mean, atol=1e-14)
    assert bool(torch.isfinite(Ensemble(members)(x * 1e4)).all())

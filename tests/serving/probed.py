"""An artifact with a probe graph, made without torch: two layers whose outputs' moments on clean pixels are known."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from batchyard.artifact import writer
from batchyard.artifact.manifest import ONNX_MODEL, PROBE, SAMPLES, FoldEntry, ProbedLayer, ProbeRecord
from bench.small_artifact import SAMPLE_COUNT, SmallNetwork, manifest_of

LAYERS = ("norm1", "norm2")


@dataclass(frozen=True, kw_only=True)
class ProbedNetwork(SmallNetwork):
    """The small network; its first two linear layers' outputs count as those of folded normalisations."""

    def clean(self, rows: int, seed: int = 3) -> NDArray[np.uint8]:
        """Pixels like those of training."""
        return self.pixels(rows, seed)

    def outputs(self, pixels: NDArray[np.generic]) -> list[NDArray[np.float64]]:
        """[rows, units] of each probed layer."""
        values, found = pixels.reshape(len(pixels), -1).astype(np.float64) / 255, []
        for matrix, bias in self.weights()[: len(LAYERS)]:
            found.append(values @ matrix.astype(np.float64) + bias)
            values = 1 / (1 + np.exp(-found[-1]))
        return found

    def promised(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Each probed layer's beta and |gamma|: mean and standard deviation on clean pixels."""
        return [(y.mean(0), y.std(0)) for y in self.outputs(self.clean(5_000, seed=99))]

    def probe(self) -> bytes:
        """ONNX: pixels -> moments [N, 2, units of both layers]."""
        nodes = [
            helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
            helper.make_node("Mul", ["flat", "scale"], ["x0"]),
        ]
        constants = [numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")]
        for i, ((matrix, bias), (beta, gamma)) in enumerate(zip(self.weights(), self.promised(), strict=False)):
            for name, value in (("w", matrix), ("b", bias), ("beta", beta), ("gamma", gamma)):
                constants.append(numpy_helper.from_array(value.astype(np.float32), f"{name}{i}"))
            nodes += [
                helper.make_node("Gemm", [f"x{i}", f"w{i}", f"b{i}"], [f"y{i}"]),
                helper.make_node("Sub", [f"y{i}", f"beta{i}"], [f"centred{i}"]),
                helper.make_node("Div", [f"centred{i}", f"gamma{i}"], [f"z{i}"]),
                helper.make_node("Sigmoid", [f"y{i}"], [f"x{i + 1}"]),
            ]
        constants.append(numpy_helper.from_array(np.array([1]), "axis"))
        nodes += [
            helper.make_node("Concat", [f"z{i}" for i in range(len(LAYERS))], ["z"], axis=1),
            helper.make_node("Mul", ["z", "z"], ["squares"]),
            helper.make_node("Unsqueeze", ["z", "axis"], ["first"]),
            helper.make_node("Unsqueeze", ["squares", "axis"], ["second"]),
            helper.make_node("Concat", ["first", "second"], ["moments"], axis=1),
        ]
        graph = helper.make_graph(
            nodes,
            "probe",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *self.row_shape])],
            [helper.make_tensor_value_info("moments", TensorProto.FLOAT, ["N", 2, sum(self.hidden[: len(LAYERS)])])],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def published(self, uri: Path, probe: bytes | None = None, **about: Any) -> str:
        """Writes the artifact to `uri`, with `probe` in place of the real one if given; its manifest's sha256.

        `about` are other fields of the manifest.
        """
        inputs = self.pixels(SAMPLE_COUNT, seed=2).astype(np.float32)
        layers = tuple(
            ProbedLayer(layer=name, channels=tuple(range(units)))
            for name, units in zip(LAYERS, self.hidden, strict=False)
        )
        report = tuple(
            FoldEntry(layer=name, status="folded", into="linear", beta=tuple(beta), gamma=tuple(gamma))
            for name, (beta, gamma) in zip(LAYERS, self.promised(), strict=True)
        )
        manifest = dataclasses.replace(
            manifest_of(self, "mnist"),
            fold_report=report,
            probe=ProbeRecord(layers=layers, left_out={"norm3": "its gamma is near 0"}),
            **about,
        )
        files = {
            ONNX_MODEL: self.onnx_model(),
            SAMPLES: save({"inputs": inputs, "outputs": self.oracle(inputs)}),
            PROBE: self.probe() if probe is None else probe,
        }
        return writer.write(str(uri), manifest, files)

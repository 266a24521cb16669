"""Which published versions share a table of engine times: those of one graph, whatever their weights are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from batchyard.artifact.manifest import ONNX_MODEL, Manifest
from batchyard.serving.engines.graph_digest import graph_digest
from bench.small_artifact import SmallNetwork, manifest_of


@pytest.fixture
def manifest() -> Manifest:
    return dataclasses.replace(manifest_of(SmallNetwork(), "mnist"), files={ONNX_MODEL: "the file's"})


def digest_of(folder: Path, manifest: Manifest, model: bytes) -> str:
    (folder / ONNX_MODEL).write_bytes(model)
    return graph_digest(manifest, folder)


def graph_with(*constants: TensorProto) -> bytes:
    """A graph that only holds constants."""
    return helper.make_model(helper.make_graph([], "constants", [], [], list(constants))).SerializeToString()


def test_other_weights_in_the_same_graph_have_the_same_digest(tmp_path: Path, manifest: Manifest) -> None:
    digests = {digest_of(tmp_path, manifest, SmallNetwork(seed=seed).onnx_model()) for seed in range(3)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "network", [SmallNetwork(hidden=(100, 100)), SmallNetwork(hidden=(100, 101, 100)), SmallNetwork(classes=9)], ids=str
)
def test_another_graph_has_another_digest(tmp_path: Path, manifest: Manifest, network: SmallNetwork) -> None:
    ours = digest_of(tmp_path, manifest, SmallNetwork().onnx_model())
    assert digest_of(tmp_path, manifest, network.onnx_model()) != ours


def test_another_operator_is_another_graph(tmp_path: Path, manifest: Manifest) -> None:
    model = onnx.load_from_string(SmallNetwork().onnx_model())
    ours = digest_of(tmp_path, manifest, model.SerializeToString())
    next(node for node in model.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
    assert digest_of(tmp_path, manifest, model.SerializeToString()) != ours


def test_integers_belong_to_the_graph(tmp_path: Path, manifest: Manifest) -> None:
    shapes = [numpy_helper.from_array(np.array([1, side], np.int64), "shape") for side in (28, 32)]
    assert len({digest_of(tmp_path, manifest, graph_with(shape)) for shape in shapes}) == 2


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE], ids=["float_data", "double_data"])
def test_weights_that_are_not_raw_are_weights_too(tmp_path: Path, manifest: Manifest, kind: int) -> None:
    tensors = [helper.make_tensor("w", kind, [2], [value, 1.0]) for value in (0.5, 0.25)]
    assert len({digest_of(tmp_path, manifest, graph_with(tensor)) for tensor in tensors}) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\x0f", b"\xff" * 12, b"\x3a\xff\xff\x03abc", SmallNetwork().onnx_model()[:-5]],
    ids=["empty", "no-such-kind", "endless", "too-short", "cut"],
)  # fmt: skip
def test_a_file_that_is_no_model_shares_its_table_with_nobody(
    tmp_path: Path, manifest: Manifest, content: bytes
) -> None:
    assert digest_of(tmp_path, manifest, content) == "the file's"

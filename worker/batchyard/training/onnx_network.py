"""An ONNX classifier as a torch network with its normalisations whole, so that one folder, one certificate and one
exporter serve every network, whichever way it came.

Folding in the ONNX graph itself would be a second implementation of what batchyard.nn.folding does and proves, for the
sake of operators that neither could fold through; an operator that is not known here is refused by name instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from torch import fx

from batchyard.training import onnx_operators
from batchyard.training.onnx_assembly import Assembly, NotUnderstood, dimensions
from batchyard.training.task import violation


@dataclass(frozen=True, kw_only=True)
class OnnxNetwork:
    """A network read from an ONNX file."""

    module: fx.GraphModule
    """In evaluation mode."""
    input: str
    output: str
    shape: tuple[int, ...]
    """Of one sample."""
    classes: int
    any_batch: bool
    """Whether the file itself takes batches of any size; the module does."""


def read(content: bytes) -> OnnxNetwork:
    """The network in an ONNX file with one FP32 input [batch, ...] and one output [batch, classes].

    Raises SpecError, for the field `onnx`, that names the operator or tensor that is not understood.
    """
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
        model = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # protobuf, checker and shape inference share no exception of their own
        raise _refusal(f"not a whole ONNX model: {str(error).splitlines()[0]}") from error
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        given = f"{len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise _refusal(f"the model has {given}; expected one of each")
    source, result = inputs[0], model.graph.output[0]
    batch, *shape = dimensions(source)
    if source.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or not shape or not all(_known(d) for d in shape):
        found = onnx.TensorProto.DataType.Name(source.type.tensor_type.elem_type)
        raise _refusal(f"input {source.name!r} is {found} {[batch, *shape]}; expected FLOAT [batch, sizes...]")
    final = dimensions(result)
    if len(final) != 2 or not _known(final[1]):
        raise _refusal(f"output {result.name!r} has shape {final}; expected [batch, classes]")
    module = _Conversion(model, constants).module(source.name, result.name)
    return OnnxNetwork(
        module=module,
        input=source.name,
        output=result.name,
        shape=tuple(int(d) for d in shape),
        classes=int(final[1]),
        any_batch=not _known(batch),
    )


class _Conversion:
    """One graph on its way to torch: from the output backwards, so that what it does not need is never looked at."""

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._assembly = Assembly(model, constants)
        self._constants = self._assembly.constants
        self._nodes = self._assembly.nodes
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._makers = {output: node for node in model.graph.node for output in node.output}

    def module(self, source: str, result: str) -> fx.GraphModule:
        """The whole network. Raises SpecError."""
        self._nodes[source] = self._assembly.graph.placeholder("x")
        pending = [result]
        while pending:  # a stack of our own: networks are deeper than Python's
            name = pending[-1]
            if self._made(name):
                pending.pop()
                continue
            node = self._makers.get(name)
            if node is None:
                raise _refusal(f"nothing makes the tensor {name!r}")
            if missing := [needed for needed in self._needed(node) if not self._made(needed)]:
                pending += missing
            else:
                self._make(node)
        if result not in self._nodes:
            raise _refusal(f"output {result!r} does not depend on the input")
        return self._assembly.module(result)

    def _made(self, name: str) -> bool:
        return name in self._nodes or name in self._constants

    def _needed(self, node: onnx.NodeProto) -> list[str]:
        """What must be made before `node`. A Reshape's inferred shape says what sizes computed in the graph would."""
        computed_shape = node.op_type == "Reshape" and node.input[0] not in self._constants
        if node.op_type in ("Dropout", "CastLike") or (computed_shape and self._assembly.shapes.get(node.output[0])):
            return [node.input[0]]
        return [name for name in node.input if name]

    def _make(self, node: onnx.NodeProto) -> None:
        if all(name in self._constants for name in self._needed(node)):
            self._evaluate(node)
            return
        operator = onnx_operators.OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if operator is None:
            known = ", ".join(sorted(onnx_operators.OPERATORS))
            raise _refusal(f"operator {node.domain or ''}{node.op_type} is not known; those that are: {known}")
        try:
            self._nodes[node.output[0]] = operator(self._assembly, node, onnx_operators.attributes(node))
        except NotUnderstood as reason:
            raise _refusal(f"{node.op_type} {node.name or node.output[0]!r}: {reason}") from reason

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """What depends on constants alone is one."""
        if node.op_type in ("Dropout", "CastLike"):  # like a value of the network, and those are FP32
            self._constants[node.output[0]] = self._constants[node.input[0]].astype(np.float32)
            return
        feeds = {name: self._constants[name] for name in node.input if name}
        results: Any = ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)
        self._constants.update(zip(node.output, results, strict=False))


def _known(dimension: int | str) -> bool:
    return isinstance(dimension, int) and dimension > 0


def _refusal(text: str) -> Exception:
    return violation("onnx", text)

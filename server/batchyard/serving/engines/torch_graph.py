"""An ONNX graph as a list of torch calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from batchyard.serving.engines.interface import EngineError
from batchyard.serving.engines.torch_operators import OPERATORS, Attributes


@dataclass(frozen=True)
class Step:
    """One node."""

    compute: Callable[..., Tensor]
    attributes: Attributes
    inputs: tuple[str, ...]
    output: str
    dead: tuple[str, ...]
    """Values that nothing after this step reads: large batches must not keep every activation."""


class TorchGraph:
    """Callable: [n, ...] -> [n, outputs]. Raises EngineError for a graph with operators it does not know."""

    def __init__(self, graph: onnx.GraphProto, source: str, result: str) -> None:
        self._source, self._result = source, result
        self._constants = {constant.name: _to_torch(constant) for constant in graph.initializer}
        nodes = [node for node in graph.node if not self._is_constant(node)]
        unknown = sorted({node.op_type for node in nodes if node.domain or node.op_type not in OPERATORS})
        if unknown:
            raise EngineError(f"torch: no operator for the graph's {', '.join(unknown)}")
        self._steps = _steps(nodes, kept={*self._constants, result, ""})

    def to(self, device: torch.device, dtype: torch.dtype) -> TorchGraph:
        """Its weights there and of that type; shapes and axes stay integers on the CPU. Returns itself."""
        self._constants = {
            name: value.to(device, dtype) if value.is_floating_point() else value
            for name, value in self._constants.items()
        }
        return self

    def __call__(self, rows: Tensor) -> Tensor:
        """Runs the graph."""
        values: dict[str, Tensor | None] = {"": None, **self._constants, self._source: rows}
        for step in self._steps:
            values[step.output] = step.compute(step.attributes, *(values[name] for name in step.inputs))
            for name in step.dead:
                del values[name]
        result = values[self._result]
        assert result is not None
        return result

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Takes the value of a Constant node."""
        if node.op_type != "Constant":
            return False
        (attribute,) = node.attribute
        if attribute.name != "value":
            raise EngineError(f"torch: constant {node.output[0]!r} is given as {attribute.name!r}; expected a tensor")
        self._constants[node.output[0]] = _to_torch(attribute.t)
        return True


def _steps(nodes: Sequence[onnx.NodeProto], kept: set[str]) -> list[Step]:
    last_use = {name: index for index, node in enumerate(nodes) for name in node.input}
    return [
        Step(
            compute=OPERATORS[node.op_type],
            attributes={attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute},
            inputs=tuple(node.input),
            output=node.output[0],
            dead=tuple({name for name in node.input if last_use[name] == index and name not in kept}),
        )
        for index, node in enumerate(nodes)
    ]


def _to_torch(constant: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(constant).copy())

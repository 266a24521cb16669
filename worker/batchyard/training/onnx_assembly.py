"""A torch network that is put together from an ONNX graph: its values as nodes, its weights as layers and buffers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn


class NotUnderstood(Exception):  # noqa: N818  not an error of ours: the message completes "Conv 'conv1': ..."
    """A known operator with a setting that has no counterpart here."""


class Assembly:
    """What is known of the ONNX graph's tensors, and the torch graph made of it so far."""

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.constants = dict(constants)
        """Tensors whose values are known, by name; those computed from constants alone join them."""
        self.shapes = {
            v.name: dimensions(v) for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }
        """Inferred sizes, by name."""
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        """What has been made, by the tensor's name."""
        self._root = fx.GraphModule({}, fx.Graph())

    def module(self, result: str) -> fx.GraphModule:
        """The network that ends in the tensor `result`, in evaluation mode."""
        self.graph.output(self.nodes[result])
        return fx.GraphModule(self._root, self.graph, "OnnxNetwork").eval()

    def value(self, name: str) -> fx.Node:
        """The node for a tensor; a constant becomes a buffer."""
        if name not in self.nodes:
            buffer = self._free(re.sub(r"\W", "_", name) or "constant")
            self._root.register_buffer(buffer, torch.from_numpy(np.array(self.constants[name])))
            with self.graph.inserting_before(next(iter(self.graph.nodes))):
                self.nodes[name] = self.graph.get_attr(buffer)
        return self.nodes[name]

    def tensor(self, name: str, role: str) -> Tensor:
        """A weight: a constant. Raises NotUnderstood."""
        if name not in self.constants:
            raise NotUnderstood(f"its {role} is computed in the graph, not fixed")
        return torch.from_numpy(np.array(self.constants[name]))

    def layer(self, module: nn.Module, source: str, weight: str) -> fx.Node:
        """A call of `module`, named as torch's exporter named it: after the owner of its weight."""
        owner = weight.rpartition(".")[0] if re.fullmatch(r"[\w.]+\.weight", weight) else re.sub(r"\W", "_", weight)
        target = self._free(owner or "layer")
        self._root.add_submodule(target, module)
        return self.graph.call_module(target, (self.value(source),))

    def rank(self, name: str) -> int:
        """How many dimensions a tensor has. Raises NotUnderstood."""
        if not self.shapes.get(name):
            raise NotUnderstood(f"the shape of {name!r} cannot be inferred")
        return len(self.shapes[name])

    def _free(self, wish: str) -> str:
        taken = {name for name, _ in self._root.named_modules()} | {name for name, _ in self._root.named_buffers()}
        name, number = wish, 2
        while name in taken or any(other.startswith(f"{name}.") for other in taken):
            name, number = f"{wish}_{number}", number + 1
        return name


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; a name, perhaps empty, for one that is not fixed."""
    dims: Sequence[Any] = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]

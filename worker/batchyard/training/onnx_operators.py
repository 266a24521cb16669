"""ONNX operators as torch layers and functions: the ones that classifiers are made of.

Each takes what is assembled so far, the node and its attributes, and returns the fx node of its first
output. ONNX's operator documents (https://onnx.ai/onnx/operators) are the source.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import onnx
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, fx, nn

from batchyard.training.onnx_assembly import Assembly, NotUnderstood

Attributes = dict[str, Any]
Operator = Callable[[Assembly, onnx.NodeProto, Attributes], fx.Node]

CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
BATCH_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
MAXIMA: dict[int, type[nn.Module]] = {3: nn.MaxPool1d, 4: nn.MaxPool2d, 5: nn.MaxPool3d}
AVERAGES: dict[int, type[nn.Module]] = {3: nn.AvgPool1d, 4: nn.AvgPool2d, 5: nn.AvgPool3d}


def attributes(node: onnx.NodeProto) -> Attributes:
    """The node's attributes as Python values."""
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _convolution(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    weight = c.tensor(node.input[1], "weight")
    bias = c.tensor(node.input[2], "bias") if len(node.input) > 2 and node.input[2] else None
    groups = given.get("group", 1)
    kind, source, pads = CONVOLUTIONS.get(weight.dim()), node.input[0], _pads(given, weight.dim() - 2)
    if kind is None:
        raise NotUnderstood(f"its weight has {weight.dim()} dimensions; expected 3 to 5")
    module = cast(Any, kind)(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(given.get("strides", [1] * len(pads[0]))),
        padding=pads[0],
        dilation=tuple(given.get("dilations", [1] * len(pads[0]))),
        groups=groups,
        bias=bias is not None,
    )
    return c.layer(_with(module, weight, bias), source, node.input[1])


def _pads(given: Attributes, dimensions: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each dimension, equal. Raises NotUnderstood."""
    if given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotUnderstood(f"auto_pad is {given['auto_pad']}; expected explicit pads")
    pads = given.get("pads", [0] * 2 * dimensions)
    before, after = tuple(pads[:dimensions]), tuple(pads[dimensions:])
    if before != after:
        raise NotUnderstood(f"it pads {before} before and {after} after; expected the same on both sides")
    return before, after


def _gemm(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    if given.get("transA", 0):
        raise NotUnderstood("transA is set; expected samples in dimension 0")
    weight = c.tensor(node.input[1], "weight") * given.get("alpha", 1.0)
    weight = weight if given.get("transB", 0) else weight.T
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = (c.tensor(node.input[2], "bias") * given.get("beta", 1.0)).expand(1, weight.shape[0])[0]
    return c.layer(_linear(weight, bias), node.input[0], node.input[1])


def _matmul(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    left, right = node.input
    if right in c.constants and c.constants[right].ndim == 2 and left not in c.constants:
        return c.layer(_linear(c.tensor(right, "weight").T, None), left, right)
    return c.graph.call_function(torch.matmul, (c.value(left), c.value(right)))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return _with(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight, bias)


def _with(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module.weight = nn.Parameter(weight.clone().contiguous())
    if bias is not None:
        module.bias = nn.Parameter(bias.clone().contiguous())
    return module


def _batch_norm(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    if given.get("training_mode", 0):
        raise NotUnderstood("it is in training mode; export the model in evaluation mode")
    gamma, beta, mean, var = (c.tensor(name, "parameter") for name in node.input[1:5])
    kind = BATCH_NORMS.get(c.rank(node.input[0]))
    if kind is None:
        raise NotUnderstood(f"its input has {c.rank(node.input[0])} dimensions; expected 2 to 5")
    module: Any = kind(len(gamma), eps=given.get("epsilon", 1e-5), momentum=1 - given.get("momentum", 0.9))
    module.running_mean.copy_(mean)
    module.running_var.copy_(var)
    return c.layer(_with(module, gamma, beta), node.input[0], node.input[1])


def _pool(kinds: dict[int, type[nn.Module]]) -> Operator:
    def make(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
        size = tuple(given["kernel_shape"])
        settings: Attributes = {"padding": _pads(given, len(size))[0], "ceil_mode": bool(given.get("ceil_mode", 0))}
        dilations = given.get("dilations", [1] * len(size))
        if kinds is AVERAGES:
            settings["count_include_pad"] = bool(given.get("count_include_pad", 0))
            if any(d != 1 for d in dilations):
                raise NotUnderstood("it averages with gaps; expected dilations of 1")
        else:
            settings["dilation"] = tuple(dilations)
        stride = tuple(given.get("strides", [1] * len(size)))
        module = cast(Any, kinds[len(size) + 2])(size, stride=stride, **settings)
        return c.layer(module, node.input[0], node.name or node.op_type)

    return make


def _function(function: Callable[..., Any], *settings: tuple[str, str, Any]) -> Operator:
    """A function of the first input; `settings` are (attribute, torch's name, default)."""

    def make(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
        named = {torchs: given.get(name, default) for name, torchs, default in settings}
        return c.graph.call_function(function, (c.value(node.input[0]),), named)

    return make


def _layer(kind: Callable[..., nn.Module], *settings: tuple[str, str, Any]) -> Operator:
    def make(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
        module = kind(**{torchs: given.get(name, default) for name, torchs, default in settings})
        return c.layer(module, node.input[0], node.name or node.op_type)

    return make


def _arithmetic(function: Callable[..., Any]) -> Operator:
    def make(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
        return c.graph.call_function(function, tuple(c.value(name) for name in node.input))

    return make


def _over_space(function: Callable[..., Any]) -> Operator:
    """Global pooling: over every dimension after the channels, which stay."""

    def make(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
        dims = tuple(range(2, c.rank(node.input[0])))
        return c.graph.call_function(function, (c.value(node.input[0]), dims, True))

    return make


def _reduce_mean(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    axes = _integers(c, node, 1) if len(node.input) > 1 else given.get("axes")
    rank = c.rank(node.input[0])
    dims = [axis % rank for axis in axes] if axes else []
    if not dims or 0 in dims:
        raise NotUnderstood(f"it averages over axes {axes}; expected some, and not the batch")
    return c.graph.call_function(torch.mean, (c.value(node.input[0]), dims, bool(given.get("keepdims", 1))))


def _flatten(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    if given.get("axis", 1) != 1:
        raise NotUnderstood(f"axis is {given['axis']}; expected 1: the batch stays as it is")
    return c.graph.call_function(torch.flatten, (c.value(node.input[0]), 1))


def _reshape(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    source = c.value(node.input[0])
    before, after = c.shapes.get(node.input[0]), c.shapes.get(node.output[0])
    if not before or not after or not all(isinstance(size, int) and size > 0 for size in after[1:]):
        raise NotUnderstood(f"its output shape is {after or 'unknown'}; expected [batch, fixed sizes...]")
    if before[0] != after[0] and isinstance(before[0], int) and isinstance(after[0], int):
        raise NotUnderstood(f"it changes the batch from {before[0]} to {after[0]}")
    if len(after) == 2:
        return c.graph.call_function(torch.flatten, (source, 1))
    return c.graph.call_function(torch.reshape, (source, (-1, *after[1:])))


def _transpose(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    order = given.get("perm", list(range(c.rank(node.input[0])))[::-1])
    if order[0] != 0:
        raise NotUnderstood(f"it moves the batch: {order}")
    return c.graph.call_function(torch.permute, (c.value(node.input[0]), tuple(order)))


def _squeeze(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    axes = _integers(c, node, 1) if len(node.input) > 1 else given.get("axes", [])
    rank = c.rank(node.input[0])
    if not axes or 0 in [axis % rank for axis in axes]:
        raise NotUnderstood(f"it takes out axes {axes}; expected some, and not the batch")
    return c.graph.call_function(torch.squeeze, (c.value(node.input[0]), tuple(axes)))


def _unsqueeze(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    axes = _integers(c, node, 1) if len(node.input) > 1 else given["axes"]
    value, rank = c.value(node.input[0]), c.rank(node.input[0]) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = c.graph.call_function(torch.unsqueeze, (value, axis))
    return value


def _integers(c: Assembly, node: onnx.NodeProto, place: int) -> list[int]:
    return [int(number) for number in c.tensor(node.input[place], "list of axes").flatten().tolist()]


def _concat(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    return c.graph.call_function(torch.cat, ([c.value(name) for name in node.input], given["axis"]))


def _clip(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    bounds = [given.get("min"), given.get("max")]
    for place, name in enumerate(node.input[1:3]):
        bounds[place] = float(c.tensor(name, "bound")) if name else None
    return c.graph.call_function(torch.clamp, (c.value(node.input[0]), *bounds))


def _cast(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    if given["to"] != onnx.TensorProto.FLOAT:
        raise NotUnderstood(f"it casts to {onnx.TensorProto.DataType.Name(given['to'])}; expected FLOAT")
    return c.value(node.input[0])


def _same(c: Assembly, node: onnx.NodeProto, given: Attributes) -> fx.Node:
    return c.value(node.input[0])


OPERATORS: dict[str, Operator] = {
    "Conv": _convolution, "Gemm": _gemm, "MatMul": _matmul, "BatchNormalization": _batch_norm,
    "MaxPool": _pool(MAXIMA), "AveragePool": _pool(AVERAGES),
    "GlobalAveragePool": _over_space(torch.mean), "GlobalMaxPool": _over_space(torch.amax), "ReduceMean": _reduce_mean,
    "Relu": _layer(nn.ReLU), "Sigmoid": _layer(nn.Sigmoid), "Tanh": _layer(nn.Tanh), "Selu": _layer(nn.SELU),
    "LeakyRelu": _layer(nn.LeakyReLU, ("alpha", "negative_slope", 0.01)),
    "Elu": _layer(nn.ELU, ("alpha", "alpha", 1.0)), "Softplus": _layer(nn.Softplus), "Clip": _clip,
    "HardSwish": _layer(nn.Hardswish), "Gelu": _function(F.gelu, ("approximate", "approximate", "none")),
    "Erf": _function(torch.erf), "Exp": _function(torch.exp), "Sqrt": _function(torch.sqrt),
    "Abs": _function(torch.abs), "Neg": _function(torch.neg), "Softmax": _function(torch.softmax, ("axis", "dim", -1)),
    "LogSoftmax": _function(torch.log_softmax, ("axis", "dim", -1)),
    "Add": _arithmetic(operator.add), "Sub": _arithmetic(operator.sub), "Mul": _arithmetic(operator.mul),
    "Div": _arithmetic(operator.truediv), "Pow": _arithmetic(torch.pow),
    "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": _concat, "Cast": _cast, "CastLike": _same, "Identity": _same, "Dropout": _same,
}  # fmt: skip
"""By ONNX's name. Their fixed order of arguments is that of the operator documents."""

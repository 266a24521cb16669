"""ONNX operators as torch calls: those of folded classifiers. Source: the ONNX operator reference, opset 18.

Each takes the node's attributes, then its inputs, None where an optional one is left out.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from batchyard.serving.engines.interface import EngineError

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor]


def _elementwise(compute: Callable[..., Tensor]) -> Operator:
    return lambda _, *inputs: compute(*inputs)


def _numbers(tensor: Tensor) -> list[int]:
    """A small constant as Python integers: shapes, axes, never pixels."""
    return [int(value) for value in tensor.tolist()]


def _pad(attributes: Attributes, values: Tensor, fill: float, dimensions: int) -> Tensor:
    """Pads the last `dimensions` of `values` as `pads` says: [begin of each, end of each]."""
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise EngineError(f"torch: auto_pad {attributes['auto_pad'].decode()} is not known; expected NOTSET")
    pads = attributes.get("pads")
    if not pads or not any(pads):
        return values
    ends = [side for axis in reversed(range(dimensions)) for side in (pads[axis], pads[axis + dimensions])]
    return F.pad(values, ends, value=fill)


def _conv(attributes: Attributes, values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dimensions = weight.dim() - 2
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dimensions]
    ones = [1] * dimensions
    pads = attributes.get("pads", [0] * 2 * dimensions)
    stride, dilation = attributes.get("strides", ones), attributes.get("dilations", ones)
    group = attributes.get("group", 1)
    if pads[:dimensions] == pads[dimensions:] and "auto_pad" not in attributes:
        return convolution(values, weight, bias, stride, pads[:dimensions], dilation, group)
    return convolution(_pad(attributes, values, 0.0, dimensions), weight, bias, stride, 0, dilation, group)


def _gemm(attributes: Attributes, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    left = left.t() if attributes.get("transA") else left
    right = right.t() if attributes.get("transB") else right
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    return alpha * (left @ right) if bias is None else torch.addmm(bias, left, right, beta=beta, alpha=alpha)


def _window(attributes: Attributes) -> tuple[list[int], list[int]]:
    """Kernel and stride of a pooling over height and width."""
    kernel = list(attributes["kernel_shape"])
    if len(kernel) != 2:
        raise EngineError(f"torch: pooling over {len(kernel)} dimensions is not known; expected 2")
    return kernel, list(attributes.get("strides", [1, 1]))


def _max_pool(attributes: Attributes, values: Tensor) -> Tensor:
    kernel, stride = _window(attributes)
    values = _pad(attributes, values, -math.inf, 2)
    ceil = bool(attributes.get("ceil_mode", 0))
    return F.max_pool2d(values, kernel, stride, 0, attributes.get("dilations", 1), ceil)


def _average_pool(attributes: Attributes, values: Tensor) -> Tensor:
    kernel, stride = _window(attributes)
    pads = attributes.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise EngineError(f"torch: average pooling with the pads {pads} is not known; expected the same on both sides")
    counts_pads, ceil = bool(attributes.get("count_include_pad", 0)), bool(attributes.get("ceil_mode", 0))
    return F.avg_pool2d(values, kernel, stride, pads[:2], ceil, counts_pads)


def _global_average_pool(_: Attributes, values: Tensor) -> Tensor:
    return values.mean(dim=tuple(range(2, values.dim())), keepdim=True)


def _batch_norm(
    attributes: Attributes, values: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """A layer that could not be folded."""
    return F.batch_norm(values, mean, variance, gamma, beta, False, 0.0, attributes.get("epsilon", 1e-5))


def _reshape(attributes: Attributes, values: Tensor, shape: Tensor) -> Tensor:
    sizes = _numbers(shape)
    if not attributes.get("allowzero"):
        sizes = [values.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return values.reshape(sizes)


def _flatten(attributes: Attributes, values: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    return values.reshape(math.prod(values.shape[:axis]), math.prod(values.shape[axis:]))


def _reduce_mean(attributes: Attributes, values: Tensor, axes: Tensor | None = None) -> Tensor:
    over: Sequence[int] = _numbers(axes) if axes is not None else attributes.get("axes", range(values.dim()))
    return values.mean(dim=tuple(over), keepdim=bool(attributes.get("keepdims", 1)))


def _squeeze(_: Attributes, values: Tensor, axes: Tensor) -> Tensor:
    return values.squeeze(tuple(_numbers(axes)))


def _unsqueeze(_: Attributes, values: Tensor, axes: Tensor) -> Tensor:
    rank = values.dim() + axes.numel()
    return functools.reduce(torch.unsqueeze, sorted(axis % rank for axis in _numbers(axes)), values)


def _clip(_: Attributes, values: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    return values.clamp(least, most)


OPERATORS: Mapping[str, Operator] = {
    "Add": _elementwise(operator.add),
    "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul),
    "Div": _elementwise(operator.truediv),
    "Pow": _elementwise(operator.pow),
    "MatMul": _elementwise(operator.matmul),
    "Identity": _elementwise(lambda values: values),
    "Relu": _elementwise(torch.relu),
    "Sigmoid": _elementwise(torch.sigmoid),
    "Tanh": _elementwise(torch.tanh),
    "Exp": _elementwise(torch.exp),
    "Erf": _elementwise(torch.erf),
    "Sqrt": _elementwise(torch.sqrt),
    "HardSwish": _elementwise(F.hardswish),
    "LeakyRelu": lambda attributes, values: F.leaky_relu(values, attributes.get("alpha", 0.01)),
    "Elu": lambda attributes, values: F.elu(values, attributes.get("alpha", 1.0)),
    "Gelu": lambda attributes, values: F.gelu(values, approximate=attributes.get("approximate", b"none").decode()),
    "HardSigmoid": lambda attributes, values: (
        attributes.get("alpha", 0.2) * values + attributes.get("beta", 0.5)
    ).clamp(0, 1),
    "Softmax": lambda attributes, values: torch.softmax(values, attributes.get("axis", -1)),
    "Concat": lambda attributes, *parts: torch.cat(parts, attributes["axis"]),
    "Transpose": lambda attributes, values: values.permute(attributes["perm"]),
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "BatchNormalization": _batch_norm,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "ReduceMean": _reduce_mean,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""Operator of the default domain -> how torch computes it."""

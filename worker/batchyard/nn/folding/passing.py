"""Operations that an affine map per channel passes: pooling, flattening, and what changes nothing in evaluation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from batchyard.nn.folding.algebra import Affine
from batchyard.nn.folding.tracing import module_of, shape_of

SAME_VALUES = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
)  # fmt: skip
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_AVERAGES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
MAXIMA = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d
)  # fmt: skip


def channelwise_source(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> fx.Node | None:
    """The input of `node`, where affine(node(x)) = node(affine(x)) for every x; else None."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    before, after = shape_of(source), shape_of(node)
    if before is None or after is None or len(before) < 2 or len(after) < 2 or before[:2] != after[:2]:
        return None
    return source if _commutes(graph, node, affine, len(before)) else None


def _commutes(graph: fx.GraphModule, node: fx.Node, affine: Affine, rank: int) -> bool:
    module = module_of(graph, node)
    if isinstance(module, SAME_VALUES) or is_call_of(node, "contiguous"):
        return True
    if isinstance(module, AVERAGES):
        padded = any(_tuple(module.padding)) and module.count_include_pad
        own_divisor = getattr(module, "divisor_override", None) is not None
        return (not padded or affine.keeps_zero) and not own_divisor
    if is_call_of(node, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d):
        given = {**dict(zip(_AVERAGE, node.args, strict=False)), **node.kwargs}
        unpadded = given.get("padding", 0) in (0, (0,), (0, 0), (0, 0, 0))
        padded = not unpadded and bool(given.get("count_include_pad", True))
        return (not padded or affine.keeps_zero) and given.get("divisor_override") is None
    if is_call_of(node, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d):
        return (node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)) is False
    if isinstance(module, MAXIMA) or is_call_of(node, *_MAXIMUM_FUNCTIONS):
        return affine.keeps_order
    if isinstance(module, ADAPTIVE_AVERAGES) or is_call_of(node, *_ADAPTIVE_FUNCTIONS):
        return True
    if is_call_of(node, torch.mean, "mean"):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        listed = [dims] if isinstance(dims, int) else dims
        return isinstance(listed, list | tuple) and all(isinstance(d, int) and d % rank >= 2 for d in listed)
    # Flattening that kept dimension 1 as it was.
    return is_call_of(node, torch.flatten, "flatten") or isinstance(module, nn.Flatten)


_AVERAGE = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAXIMUM_FUNCTIONS = (F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)
_ADAPTIVE_FUNCTIONS = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


def flattened(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> int:
    """How many features each channel becomes where `node` flattens (N, C, ...) to (N, C * k); else 0."""
    before, after = shape_of(source), shape_of(node)
    if before is None or after is None or len(after) != 2 or after[0] != before[0] or after[1] % before[1]:
        return 0
    module = module_of(graph, node)
    if isinstance(module, nn.Flatten) or is_call_of(node, torch.flatten, "flatten", torch.reshape, "reshape", "view"):
        return after[1] // before[1]
    return 0


def linear_features(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The call of a linear layer whose features, its last dimension, `node` puts into dimension 1; else None.

    Rows in one dimension, or features and places exchanged: code that normalises (N, places, C) does one or the other.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or type(module_of(graph, source)) is not nn.Linear:
        return None
    before, after = shape_of(source), shape_of(node)
    if before is None or after is None or len(before) < 3 or after[1:2] != before[-1:]:
        return None
    last = len(before) - 1
    dims = _counted(node.args[1:], len(before))
    rows = len(after) == 2 and is_call_of(node, torch.flatten, "flatten", torch.reshape, "reshape", "view")
    exchanged = is_call_of(node, torch.transpose, "transpose") and sorted(dims) == [1, last]
    permuted = is_call_of(node, torch.permute, "permute") and dims[1:2] == [last]
    return source if rows or exchanged or permuted else None


def _counted(dims: tuple[object, ...], rank: int) -> list[int]:
    """Dimensions, given one by one or as a sequence, counted from the front."""
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return [d % rank for d in given if isinstance(d, int)]


def is_call_of(node: fx.Node, *targets: object) -> bool:
    """Whether `node` calls one of these functions, or a method of one of these names."""
    return node.op in ("call_function", "call_method") and any(node.target is t or node.target == t for t in targets)


def _tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


_SHAPE_ATTRIBUTES = ("ndim", "shape", "device")
_SHAPE_METHODS = ("size", "dim", "ndimension", "numel")


def readers(node: fx.Node) -> list[fx.Node]:
    """Who reads the values of `node`. Who only asks for its shape sees nothing of what a map per channel changes."""
    return [user for user in node.users if not asks_for_shape(user) and not _takes_shape(user, node)]


def _takes_shape(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` gives another value the shape of `node`."""
    return is_call_of(user, "reshape_as", "view_as", "expand_as") and user.args[0] is not node


def asks_for_shape(node: fx.Node) -> bool:
    """Whether `node` depends on its input's shape alone, as the checks at the beginning of many a forward do."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    return node.op == "call_method" and node.target in _SHAPE_METHODS

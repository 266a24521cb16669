"""Zero padding behind a map: what to pad with before the map instead."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from batchyard.nn.folding.algebra import CONVOLUTIONS, Affine, Layer
from batchyard.nn.folding.plan import Stays


def zero_padding(layer: Layer) -> list[int]:
    """What a convolution pads with zeros, in the order of F.pad; empty when it does not."""
    if not isinstance(layer, CONVOLUTIONS) or layer.padding_mode != "zeros":
        return []
    padding = list(layer._reversed_padding_repeated_twice)
    return padding if any(padding) else []


def pre_image_of_zero(affine: Affine, reader: str) -> float:
    """The value that the map takes to 0: padding with it before the map is padding with 0 after it."""
    values = -affine.shift / affine.scale
    if not bool(torch.isfinite(values).all() and (values == values[0]).all()):
        raise Stays(f"its reader {reader} pads with zeros, which stand for another value in each channel before it")
    return float(values[0])


def pad_before(graph: fx.GraphModule, node: fx.Node, layer: nn.Conv2d, padding: list[int], value: float) -> None:
    """Lets a node of its own pad the input of the convolution `layer`, called by `node`, with `value`."""
    source = cast(fx.Node, node.args[0] if node.args else node.kwargs["input"])
    with graph.graph.inserting_before(node):
        padded = graph.graph.call_function(F.pad, (source, padding, "constant", value))
    node.replace_input_with(source, padded)
    layer.padding = cast(tuple[int, int], (0,) * (len(padding) // 2))
    layer._reversed_padding_repeated_twice = [0] * len(padding)

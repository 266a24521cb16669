"""Where an affine map may go: backwards into what makes its input, or forwards into what reads its output.

A rule plans before anything changes (folding/plan.py): it returns the edits that together move the map away, or raises
`Stays` with the reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import cast

import torch
from torch import fx, nn

from batchyard.nn.folding.algebra import (
    LAYERS,
    TRANSPOSED,
    Affine,
    ChannelAffine,
    Layer,
    fold_after,
    fold_before,
)
from batchyard.nn.folding.constants import constant_affine
from batchyard.nn.folding.padding import pad_before, pre_image_of_zero, zero_padding
from batchyard.nn.folding.passing import channelwise_source, flattened, is_call_of, linear_features, readers
from batchyard.nn.folding.plan import Plan, Stays, listed
from batchyard.nn.folding.tracing import free_name, module_of, name_of, own_module, shape_of, untrusted


def backwards(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> Plan:
    """Plans to make `node` compute affine(node). Raises Stays."""
    if len(readers(node)) > 1:
        raise Stays(f"its input {name_of(node)} has other readers")
    if sum(arg is node for user in readers(node) for arg in _flat_args(user)) > 1:
        raise Stays(f"its input {name_of(node)} is read twice")
    module = module_of(graph, node)
    if module is not None and (reason := untrusted(module)):
        raise Stays(f"{name_of(node)} {reason}")
    if type(module) in LAYERS:
        return _into_output(graph, node, cast(Layer, module), affine)
    if isinstance(module, ChannelAffine):
        return Plan([_merging(module, affine.after(module.affine))], [f"{name_of(node)}"], [node])
    if source := channelwise_source(graph, node, affine):
        return Plan(changed=[node]).__iadd__(backwards(graph, source, affine))
    if source := linear_features(graph, node):
        return Plan(changed=[node]).__iadd__(_into_features(graph, source, affine))
    if found := constant_affine(graph, node):
        source, arithmetic = found
        return _without(node, source).__iadd__(backwards(graph, source, affine.after(arithmetic)))
    if is_call_of(node, torch.cat, torch.concat, torch.concatenate):
        return _split_over_sources(graph, node, affine)
    if is_call_of(node, operator.add, torch.add, "add") and not node.kwargs:
        return _over_sum(graph, node, affine)
    raise Stays(f"what comes before it, {name_of(node)}, is not linear or not known to be")


def forwards(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> Plan:
    """Plans to make every reader of `node` apply `affine` to it first. Raises Stays."""
    if not readers(node):
        raise Stays("nothing reads it")
    plan = Plan()
    for reader in readers(node):
        plan += _into_reader(graph, reader, node, affine)
    return plan


def _into_reader(graph: fx.GraphModule, reader: fx.Node, node: fx.Node, affine: Affine) -> Plan:
    if reader.op == "output":
        raise Stays("it is an output of the network")
    if sum(arg is node for arg in _flat_args(reader)) > 1:
        raise Stays(f"its reader {name_of(reader)} reads it twice")
    module = module_of(graph, reader)
    if module is not None and (reason := untrusted(module)):
        raise Stays(f"its reader {name_of(reader)} {reason}")
    if type(module) in LAYERS:
        return _into_input(graph, reader, cast(Layer, module), affine)
    if isinstance(module, ChannelAffine):
        return Plan([_merging(module, module.affine.after(affine))], [name_of(reader)])
    if channelwise_source(graph, reader, affine) is node:
        return Plan(changed=[reader]).__iadd__(forwards(graph, reader, affine))
    if (found := constant_affine(graph, reader)) and found[0] is node:
        return _without(reader, node).__iadd__(forwards(graph, reader, found[1].after(affine)))
    if times := flattened(graph, reader, node):
        return Plan(changed=[reader]).__iadd__(forwards(graph, reader, affine.repeated(times)))
    if is_call_of(reader, torch.cat, torch.concat, torch.concatenate):
        return _through_concatenation(graph, reader, node, affine)
    raise Stays(f"its reader {name_of(reader)} is not linear or not known to be")


def drop_passed(graph: fx.GraphModule) -> None:
    """Takes out the nodes that only pass on their input since their map has moved on."""
    for node in list(graph.graph.nodes):
        if node.meta.get("passes"):
            source = cast(fx.Node, node.args[0])
            source.meta["equals"] = source.meta.get("equals") or node.meta.get("equals")
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def _without(node: fx.Node, source: fx.Node) -> Plan:
    """Makes `node` the same as `source`: what it did to it has become part of a map that moves on."""

    def edit() -> None:
        node.op, node.target, node.args = "call_method", "contiguous", (source,)
        node.meta["passes"] = True

    return Plan([edit], changed=[node])


def _into_output(graph: fx.GraphModule, node: fx.Node, layer: Layer, affine: Affine) -> Plan:
    shape = shape_of(node)
    if shape is None or len(shape) != layer.weight.dim():
        raise Stays(f"the channels of {name_of(node)} are not in dimension 1")

    def edit() -> None:
        fold_after(cast(Layer, own_module(graph, node)), affine)

    return Plan([edit], [name_of(node)], [node])


def _into_features(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> Plan:
    """Into a linear layer over the last of three dimensions or more."""
    if len(readers(node)) > 1:
        raise Stays(f"{name_of(node)} has other readers")
    if reason := untrusted(cast(nn.Module, module_of(graph, node))):
        raise Stays(f"{name_of(node)} {reason}")

    def edit() -> None:
        fold_after(cast(Layer, own_module(graph, node)), affine)

    return Plan([edit], [name_of(node)], [node])


def _into_input(graph: fx.GraphModule, node: fx.Node, layer: Layer, affine: Affine) -> Plan:
    shape = shape_of(node)
    if shape is None or len(shape) != layer.weight.dim():
        raise Stays(f"its reader {name_of(node)} does not read its channels in dimension 1")
    if isinstance(layer, TRANSPOSED) and not affine.keeps_zero:
        raise Stays(f"its shift would reach the border of {name_of(node)} through fewer taps than its middle")
    padding = zero_padding(layer)
    value = 0.0 if not padding or affine.keeps_zero else pre_image_of_zero(affine, name_of(node))

    def edit() -> None:
        own = cast(Layer, own_module(graph, node))
        if value:
            pad_before(graph, node, cast(nn.Conv2d, own), padding, value)
        fold_before(own, affine)

    return Plan([edit], [name_of(node)])


def _merging(module: ChannelAffine, merged: Affine) -> Callable[[], None]:
    def edit() -> None:
        module.affine = merged

    return edit


def _split_over_sources(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> Plan:
    """affine(cat(a, b)) = cat(affine_a(a), affine_b(b)); a source that cannot take its part gets an affine node."""
    plan, start, stays = Plan(changed=[node]), 0, {}
    sources = _concatenated(node)
    for position, (source, channels) in enumerate(sources):
        part = affine.of(start, channels)
        start += channels
        try:
            plan += backwards(graph, source, part)
        except Stays as reason:
            stays[position] = part
            plan.left.append(str(reason))
    if len(stays) == len(sources):
        raise Stays(listed(plan.left))

    def keep_the_rest() -> None:
        arguments = [source for source, _ in sources]
        for position, part in stays.items():
            arguments[position] = _inserted(graph, node, arguments[position], part)
        node.args = (arguments, *node.args[1:])

    plan.edits.append(keep_the_rest)
    return plan


def _inserted(graph: fx.GraphModule, before: fx.Node, source: fx.Node, affine: Affine) -> fx.Node:
    target = free_name(graph, f"{before.name}_affine")
    graph.add_submodule(target, ChannelAffine(affine))
    with graph.graph.inserting_before(before):
        return graph.graph.call_module(target, (source,))


def _through_concatenation(graph: fx.GraphModule, node: fx.Node, source: fx.Node, affine: Affine) -> Plan:
    start, whole = 0, None
    for part, channels in _concatenated(node):
        if part is source:
            whole = start
        start += channels
    if whole is None:
        raise Stays(f"its reader {name_of(node)} is not understood")
    return Plan(changed=[node]).__iadd__(forwards(graph, node, affine.within(start, whole)))


def _concatenated(node: fx.Node) -> list[tuple[fx.Node, int]]:
    """What `node` concatenates along dimension 1, with the number of channels. Raises Stays for another dimension."""
    sources = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    shape = shape_of(node)
    if shape is None or not isinstance(sources, list | tuple) or dim not in (1, 1 - len(shape)):
        raise Stays(f"{name_of(node)} does not concatenate channels")
    shapes = [(source, shape_of(source)) for source in sources if isinstance(source, fx.Node)]
    return [(source, shape[1]) for source, shape in shapes if shape is not None]


def _over_sum(graph: fx.GraphModule, node: fx.Node, affine: Affine) -> Plan:
    """Both terms take the scale, one the shift: scale * (a + b) + shift = (scale * a + shift) + scale * b."""
    terms = [arg for arg in node.args if isinstance(arg, fx.Node) and shape_of(arg) == shape_of(node)]
    if len(terms) != 2:
        raise Stays(f"what comes before it, {name_of(node)}, is not a sum of two values of one shape")
    plan = Plan(changed=[node])
    plan += backwards(graph, terms[0], affine)
    plan += backwards(graph, terms[1], Affine(affine.scale, torch.zeros_like(affine.shift)))
    return plan


def _flat_args(node: fx.Node) -> list[object]:
    found: list[object] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n) or n)  # type: ignore[func-returns-value]
    return found

"""Layer by layer: zero and unit impulses prove that two affine maps are one.

Where folding changed a graph, a region of it and a region of the original lie between values that are equal. Every
region is small: a layer, the normalisations folded into it, and what passes them on (flatten, pooling, concatenation).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from batchyard.nn.folding.fold import FoldedModel
from batchyard.nn.folding.impulses import cropped, probes, reach
from batchyard.nn.folding.passing import asks_for_shape
from batchyard.nn.folding.tracing import shape_of

ROUNDINGS = 8.0
"""Allowed difference, in roundings of the root of sum((weight * input)^2) + bias^2: roundings of single weights are as
likely up as down. Seen: below 1."""


@dataclass(frozen=True)
class LayerProof:
    """The proof for one region, which ends at the folded node `name`."""

    name: str
    passed: bool
    roundings: float
    """Largest difference, in roundings of the folded weights."""
    probes: int
    reason: str


def prove_layers(folded: FoldedModel, original: fx.GraphModule) -> list[LayerProof]:
    """Proves every region where the two graphs differ. `original` is the fp64 graph, its shapes measured."""
    nodes = {node.name: node for node in original.graph.nodes}
    equals = {n: nodes[folded.equals[n.name]] for n in folded.module.graph.nodes if folded.equals.get(n.name) in nodes}
    double = _Double(folded.module)
    proofs = []
    for node, counterpart in equals.items():
        if node.op not in ("placeholder", "get_attr") and not _same(folded.module, original, node, counterpart, equals):
            proofs.append(_prove(double, original, node, counterpart, equals))
    return proofs


def _same(
    folded: fx.GraphModule, original: fx.GraphModule, node: fx.Node, other: fx.Node, equals: dict[fx.Node, fx.Node]
) -> bool:
    """Whether both nodes visibly do the same to equal values, with bitwise the same parameters."""
    if node.op == "output":
        return [equals.get(n) for n in node.all_input_nodes] == list(other.all_input_nodes)
    if any(n not in equals for n in node.all_input_nodes):
        return False
    if asks_for_shape(node) and asks_for_shape(other):  # of a value that folding may have moved over a normalisation
        measured = [shape_of(n) for n in (equals[node.all_input_nodes[0]], other.all_input_nodes[0])]
        asked = (node.op, node.target, node.args[1:], node.kwargs) == (
            other.op,
            other.target,
            other.args[1:],
            other.kwargs,
        )
        return asked and measured[0] is not None and measured[0] == measured[1]
    ours = fx.map_arg((node.args, node.kwargs), lambda n: equals[n])
    if node.op != other.op or ours != (other.args, other.kwargs):
        return False
    if node.op != "call_module":
        return bool(node.target == other.target)
    a, b = (g.get_submodule(cast(str, n.target)) for g, n in ((folded, node), (original, other)))
    if type(a) is not type(b) or _settings(a) != _settings(b):
        return False
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k].cpu(), theirs[k].to(mine[k].dtype)) for k in mine)


def _settings(module: nn.Module) -> str:
    """A module's settings, but for whether it works in place."""
    return module.extra_repr().replace("inplace=True", "")


def _prove(
    double: _Double,
    original: fx.GraphModule,
    node: fx.Node,
    counterpart: fx.Node,
    equals: dict[fx.Node, fx.Node],
) -> LayerProof:
    name = str(node.target) if node.op == "call_module" else node.name
    ours, boundary = _region(node, set(equals))
    theirs, reached = _region(counterpart, {equals[n] for n in boundary})
    if strangers := [n for n in theirs if n.op == "placeholder"] or set(reached) - {equals[n] for n in boundary}:
        return LayerProof(name, False, math.inf, 0, f"the original also reads {', '.join(map(str, strangers))}")
    measured = [n for n in boundary if isinstance(equals[n].meta.get("value"), Tensor)]
    known = {n: equals[n].meta.get("value") for n in boundary if n not in measured}
    shapes = [tuple(equals[n].meta["value"].shape) for n in measured]
    mixes = (shape_of(counterpart) or (1,))[0] != 1  # what is one sample's is in several rows, as after flattening
    one_by_one = bool(known) or mixes or any(not s or s[0] != 1 for s in shapes)
    if not one_by_one:
        shapes = cropped(shapes, reach(original, theirs))
    worst, count, exact = 0.0, 0, _Exact(original)
    for probe in probes(shapes, one_by_one):
        values = dict(zip(measured, probe.values, strict=True)) | known
        before = _evaluate(exact, theirs, {equals[n]: v for n, v in values.items()}, counterpart)
        after = _evaluate(double.exact, ours, values, node)
        size = _evaluate(double.squares, ours, dict(zip(measured, probe.squares, strict=True)) | known, node)
        count += len(probe.values[0]) if probe.values else 1
        worst = max(worst, _roundings(before, after, size, double.epsilon))
        if asks_for_shape(counterpart):  # no value can change its answer
            break
    passed = worst <= ROUNDINGS
    reason = "" if passed else f"differs from the original by {worst:.3g} roundings; at most {ROUNDINGS:g} are allowed"
    return LayerProof(name, passed, worst, count, reason)


def _region(end: fx.Node, boundary: set[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The nodes that `end` is computed with, up to `boundary`, in graph order; and the boundary nodes reached."""
    inside, reached, waiting = {end}, [], list(end.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in boundary and node.op != "get_attr":
            if node not in reached:
                reached.append(node)
        elif node not in inside:
            inside.add(node)
            waiting += node.all_input_nodes
    return sorted(inside), reached


def _evaluate(interpreter: fx.Interpreter, region: list[fx.Node], values: dict[fx.Node, Any], end: fx.Node) -> Any:
    """The value of `end` when the boundary has `values`."""
    interpreter.env = {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}
    for node in region:
        interpreter.env[node] = interpreter.run_node(node)
    return interpreter.env[end]


def _roundings(before: Any, after: Any, size: Any, epsilon: float) -> float:
    """The largest difference of two results, of one tensor or of several."""
    befores, afters, sizes = map(tree_leaves, (before, after, size))
    if len(befores) != len(afters):
        return math.inf
    return max((_of_one(*parts, epsilon) for parts in zip(befores, afters, sizes, strict=True)), default=0.0)


def _of_one(before: Any, after: Any, size: Any, epsilon: float) -> float:
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)) or before.shape != after.shape:
        return 0.0 if before is after or (not isinstance(before, Tensor) and before == after) else math.inf
    if not before.numel():
        return 0.0
    difference = (before.double() - after.double()).abs()
    allowed = epsilon * size.double().sqrt() + torch.finfo(torch.float64).tiny
    if len(size) != len(before):
        allowed = allowed.repeat_interleave(len(before) // len(size), 0)
    # Where nothing but rounding of the original's own fp64 arithmetic is left, a hundred of those are forgiven.
    excess = (difference - 100 * torch.finfo(torch.float64).eps * before.abs().max()).clamp(min=0)
    # What is equal is equal, also where the squares of a difference's terms are no bound for it.
    ratio = torch.where(excess == 0, 0.0, excess / allowed)
    return float(ratio.nan_to_num(math.inf).max())


class _Double:
    """The folded network in fp64, once as it is and once with squared parameters, for the size of a sum's terms."""

    def __init__(self, folded: fx.GraphModule) -> None:
        epsilons = [torch.finfo(p.dtype).eps for p in folded.state_dict().values() if p.is_floating_point()]
        self.epsilon = max(epsilons, default=torch.finfo(torch.float64).eps)
        self.exact = _Exact(copy.deepcopy(folded).double().cpu())
        squared = copy.deepcopy(folded).double().cpu()
        for tensor in (*squared.parameters(), *squared.buffers()):
            if tensor.is_floating_point():
                tensor.square_()
        self.squares = _Squares(squared)


class _Exact(fx.Interpreter):
    """Computes everything in fp64, also where the graph casts."""

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a.is_floating_point else a for a in args)
        return super().call_method(target, args, kwargs)


class _Squares(_Exact):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is F.pad and len(args) == 4:
            args = (*args[:3], args[3] ** 2)
        return super().call_function(target, args, kwargs)
